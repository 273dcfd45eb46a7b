"""The command line: what is listed, what is shown, what is refused, and that the README says the same."""

import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from loadtest import chaos, profiles, targets
from loadtest.commands import described, main
from loadtest.parameters import ParameterError, make, parameters
from loadtest.scenarios import SCENARIOS
from loadtest.swarm import Origin
from server.cli import main as parley

README = Path(__file__).parents[2] / "loadtest" / "README.md"


def call(*words: str) -> Result:
    return CliRunner().invoke(main, words)


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_readme_describes_every_scenario(name: str) -> None:
    """Parameters, defaults and example are in the README as `show --markdown` prints them."""
    assert described(SCENARIOS[name]) in README.read_text()
    assert call("show", name, "--markdown").output == described(SCENARIOS[name])


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_parameter_is_an_option_and_has_a_description(name: str) -> None:
    text = call("run", name, "--help").output
    for parameter in parameters(SCENARIOS[name].Parameters):
        assert parameter.option in text
        assert parameter.description


def test_list_names_every_scenario_and_profile() -> None:
    text = call("list").output
    assert all(f"{name} " in text for name in [*SCENARIOS, *profiles.names()])


@pytest.mark.parametrize("name", profiles.names())
def test_the_profiles_can_be_run(name: str) -> None:
    """Their scenario exists and takes their parameters; their schedule can be read."""
    profile = profiles.load(name)
    kind = SCENARIOS[profile.scenario]
    assert kind(make(kind.Parameters, profile.parameters)).cast().people
    assert isinstance(chaos.parse(profile.run.get("chaos", "")), list)
    assert call("run", name, "--help").exit_code == 0


def test_the_command_line_goes_before_the_profile() -> None:
    kind = SCENARIOS["direct"].Parameters
    made = make(kind, {"rate": None, "pairs": 7}, {"rate": 5.0, "pairs": 9})
    assert (made.rate, made.pairs) == (5.0, 7)  # type: ignore[attr-defined]  # of this scenario


def test_parley_has_it_too() -> None:
    """`parley loadtest` is the same command."""
    shown = CliRunner().invoke(parley, ["loadtest", "show", "direct"])
    assert shown.output == call("show", "direct").output


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["run", "direct", "--url", "http://192.0.2.1"], "--i-own-this-target"),
        (["run", "direct"], "--dev"),
        (["run", "nothing"], "nothing"),
        (["run", "direct", "--dev", "--chaos", "5 break everything"], "is no fault"),
        (["run", "direct", "--url", "http://127.0.0.1:1", "--chaos", "5 kill instance"], "--dev"),
        (["run", "direct", "--url", "ftp://127.0.0.1"], "base URL"),
        (["run", "direct", "--url", "http://127.0.0.1:1", "--plain"], "unreachable"),
        (["run", "direct", "--dev", "--pairs", "0"], "pairs"),
        (["run", "idle", "--url", "http://127.0.0.1:1", "--levels", "900000"], "open files"),
        (["run", "direct", "--url", "http://127.0.0.1:1", "--shard", "3/2"], "I/N"),
        (["run", "direct", "--dev", "--client", "reference", "--protocol", "messagepack"], "JSON only"),
        (["show", "nothing"], "there is no scenario"),
        (["audit", str(README)], "not a result"),
    ],
)
def test_what_is_refused(words: list[str], says: str) -> None:
    """One line that says what to do, and no traceback."""
    done = call(*words)
    assert done.exit_code in (1, 2)
    assert says in done.output
    assert "Traceback" not in done.output
    assert done.exception is None or isinstance(done.exception, SystemExit)


def test_a_parameter_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ParameterError):
        make(SCENARIOS["direct"].Parameters, {"paris": 3})


@pytest.mark.parametrize(
    ("host", "ours"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("localhost", True), ("::1", True), ("10.0.0.1", False)],
)
def test_only_loopback_is_loaded_without_asking(host: str, ours: bool) -> None:
    origin = Origin("http", host, 80, "")
    if ours:
        targets.check_ownership(origin, owned=False)
    else:
        with pytest.raises(targets.TargetError):
            targets.check_ownership(origin, owned=False)
        targets.check_ownership(origin, owned=True)


def test_schedules_of_faults() -> None:
    """In order of time, whatever the order they are written in; comments and empty lines do not count."""
    found = chaos.parse("9 cut 0.5\n\n# later\n5 kill instance 2; 7 stop instance for 3")
    assert [str(fault) for fault in found] == ["kill instance 2", "stop instance for 3 s", "cut 0.5 of the connections"]


def test_without_trio_websocket_the_reference_client_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trio_websocket", None)
    done = call("run", "direct", "--dev", "--client", "reference")
    assert done.exit_code == 1
    assert "pip install 'parley[loadtest]'" in done.output
