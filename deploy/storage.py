"""Makes the schema of Dagster's own storage, and its tables in it; brings those of an older Dagster up to date."""

import os
import subprocess

import psycopg

with psycopg.connect(
    host=os.environ["POSTGRES_HOST"],
    port=os.environ["POSTGRES_PORT"],
    user=os.environ["POSTGRES_USERNAME"],
    password=os.environ["POSTGRES_PASSWORD"],
    dbname="pipedag",
    autocommit=True,
) as connection:
    connection.execute("CREATE SCHEMA IF NOT EXISTS dagster")
subprocess.run(["dagster", "instance", "migrate"], check=True)
