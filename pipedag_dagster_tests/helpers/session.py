"""The settings that every session of ours has, and the query that shows them."""

from __future__ import annotations

from pipedag_dagster.postgres.session import SEARCH_PATH

OURS = ["UTF8", SEARCH_PATH, "ISO, MDY", "postgres", "UTC", "1", "hex", "on", "on", "off", "read committed", "off"]
SHOW = """
    SELECT current_setting('client_encoding'), replace(current_setting('search_path'), ' ', ''),
        current_setting('DateStyle'), current_setting('IntervalStyle'), current_setting('TimeZone'),
        current_setting('extra_float_digits'), current_setting('bytea_output'),
        current_setting('standard_conforming_strings'), current_setting('array_nulls'),
        current_setting('transform_null_equals'), current_setting('default_transaction_isolation'),
        current_setting('transaction_read_only')
"""
