from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from loadtest import comparison_report, models
from loadtest.cli import main
from loadtest.commands.survey import write_report
from loadtest.comparison import Comparison
from loadtest.results import Results
from tests.loadtest.conftest import V2Server


@pytest.mark.parametrize("command", ["", *main.commands])
def test_every_command_explains_itself(command: str) -> None:
    result = CliRunner().invoke(main, [command, "--help"] if command else ["--help"])
    assert result.exit_code == 0
    assert "Usage:" in result.output


def test_run_against_a_server_with_every_answer_checked(threaded_server: V2Server, tmp_path: Path) -> None:
    models.write_repository(tmp_path / "repository", ["addsub"])
    url = f"http://127.0.0.1:{threaded_server.port}"
    options = ["--model", "addsub", "--repository", str(tmp_path / "repository"), "--rate", "200", "--duration", "0.3"]
    options += ["--arrivals", "constant", "--warmup", "0", "--json", "--plot", str(tmp_path / "latency.png")]
    result = CliRunner().invoke(main, ["run", url, *options, "--rows", str(tmp_path / "rows.jsonl")])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["outcomes"] == {"ok": 60, "rejected": 0, "failed": 0, "wrong": 0}
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == 60
    assert (tmp_path / "latency.png").exists()


def test_run_without_json_prints_a_table(threaded_server: V2Server) -> None:
    url = f"http://127.0.0.1:{threaded_server.port}"
    options = ["--model", "addsub", "--rate", "100", "--duration", "0.2", "--arrivals", "constant", "--warmup", "0"]
    result = CliRunner().invoke(main, ["run", url, *options])
    assert result.exit_code == 0, result.output
    assert "| arrivals | offered/s |" in result.output
    assert "20 ok" in result.output


def test_closed_takes_several_numbers_of_callers(threaded_server: V2Server) -> None:
    url = f"http://127.0.0.1:{threaded_server.port}"
    options = ["--model", "addsub", "--duration", "0.2", "--warmup", "0.1", "-c", "1", "-c", "3", "--json"]
    result = CliRunner().invoke(main, ["closed", url, *options])
    assert result.exit_code == 0, result.output
    assert [point["callers"] for point in json.loads(result.stdout)] == [1, 3]


def test_nobody_there_is_one_clear_line() -> None:
    result = CliRunner().invoke(main, ["run", "http://127.0.0.1:9", "--model", "m"])
    assert result.exit_code == 1
    assert result.output.startswith("Error: http://127.0.0.1:9/v2/models/m")


@pytest.mark.parametrize("header", ["NoColon", ": x", "A: b\r\nC: d"])
def test_a_header_that_is_none_is_refused(header: str) -> None:
    result = CliRunner().invoke(main, ["run", "http://127.0.0.1:9", "--model", "m", "--header", header])
    assert result.exit_code == 1
    assert "Name: value" in result.output


def test_direct_prints_rows_per_second(tmp_path: Path) -> None:
    runner = CliRunner()
    assert runner.invoke(main, ["models", str(tmp_path), "addsub"]).exit_code == 0
    result = runner.invoke(main, ["direct", str(tmp_path), "addsub", "--duration", "0.01", "--json"])
    assert result.exit_code == 0, result.output
    assert set(json.loads(result.stdout)) == {"1", "2", "4", "8", "16", "32"}


def test_a_report_can_be_written_again_from_its_results(tmp_path: Path) -> None:
    out = tmp_path / "benchmarks.md"
    write_report(Results(about={"machine": "2 cores"}), out)
    first = out.read_text()
    result = CliRunner().invoke(main, ["report", str(tmp_path / "benchmarks" / "results.json"), "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert out.read_text() == first
    assert "| machine | 2 cores |" in first


def test_the_page_of_a_comparison_and_the_readme_can_be_written_again(tmp_path: Path) -> None:
    raw, out, readme = tmp_path / "results.json", tmp_path / "page.md", tmp_path / "README.md"
    Comparison({"machine": "2 cores"}).save(raw)
    readme.write_text(f"# P\n{comparison_report.BEGIN}old\n{comparison_report.END}rest\n")
    options = [str(raw), "--out", str(out), "--readme", str(readme)]
    result = CliRunner().invoke(main, ["page", *options])
    assert result.exit_code == 0, result.output
    assert "| machine | 2 cores |" in out.read_text()
    assert "old" not in readme.read_text()
    assert readme.read_text().endswith("rest\n")


def test_an_interpreter_that_is_none_is_named() -> None:
    result = CliRunner().invoke(main, ["bench", "--python", "/no/python"])
    assert result.exit_code == 1
    assert "/no/python" in result.output
