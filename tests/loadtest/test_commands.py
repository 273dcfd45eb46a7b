"""The command line: what is listed, what is shown, what is refused, and that the README says the same."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from loadtest import chaos, profiles, results, targets
from loadtest.commands import INTERRUPTED, described, ending_signals, main
from loadtest.lean_client import Origin
from loadtest.parameters import ParameterError, make, parameters
from loadtest.plan import Person
from loadtest.processes import family
from loadtest.provisioning import check_tokens, mint
from loadtest.scenarios import SCENARIOS
from server.cli.dev.process import command_line
from server.cli.main import main as parley
from tests.loadtest.runs import breached, run
from tests.waiting import block_until

README = Path(__file__).parents[2] / "loadtest" / "README.md"


def call(*words: str) -> Result:
    return CliRunner().invoke(main, words)


def zeros(scenario: str) -> list[str]:
    """Every weight of a scenario, given as 0."""
    return [word for name in SCENARIOS[scenario].Parameters.MIX for word in (f"--{name}", "0")]


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_readme_describes_every_scenario(name: str) -> None:
    """Parameters, defaults and example are in the README as `show --markdown` prints them."""
    assert described(SCENARIOS[name]) in README.read_text()
    assert call("show", name, "--markdown").output == described(SCENARIOS[name])


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_parameter_is_an_option_and_has_a_description(name: str) -> None:
    """`run SCENARIO --help` lists each parameter of the scenario, and each has a description."""
    text = call("run", name, "--help").output
    for parameter in parameters(SCENARIOS[name].Parameters):
        assert parameter.option in text
        assert parameter.description


def test_list_names_every_scenario_and_profile() -> None:
    """`list` leaves out no scenario and no profile."""
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
    """What the command line says wins over the profile; what it leaves out is the profile's."""
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
        (
            ["run", "direct", "--url", "http://127.0.0.1:1", "--plain"],
            "people cannot be made: all attempts to connect to",
        ),
        (["run", "direct", "--dev", "--pairs", "0"], "pairs"),
        (["run", "idle", "--url", "http://127.0.0.1:1", "--levels", "900000"], "open files"),
        (["run", "direct", "--url", "http://127.0.0.1:1", "--shard", "3/2"], "I/N"),
        (["run", "direct", "--dev", "--client", "reference", "--protocol", "messagepack"], "JSON only"),
        (["run", "direct", "--url", "http://127.0.0.1:1", "--metrics", "foo:bar"], "--metrics foo:bar"),
        (["show", "nothing"], "there is no scenario"),
        (["audit", str(README)], "not a result"),
    ],
)
def test_what_is_refused(words: list[str], says: str) -> None:
    """One line that says what to do, and no traceback."""
    done = call(*words)
    assert done.exit_code in (2, 3)
    assert says in done.output
    assert "Traceback" not in done.output
    assert done.exception is None or isinstance(done.exception, SystemExit)


@pytest.mark.parametrize(
    "words",
    [
        ["run", "direct"],
        ["run", "direct", "--url", "ftp://127.0.0.1"],
        ["run", "direct", "--url", "http://127.0.0.1:1", "--shard", "3/2"],
        ["run", "direct", "--url", "http://127.0.0.1:1", "--data", str(README.parent)],
        ["run", "direct", "--url", "http://127.0.0.1:1", "--out", "/proc/none/run.json"],
    ],
)
def test_a_wrong_command_line_is_exit_code_2(words: list[str]) -> None:
    """Scripts can distinguish it from a broken promise; it is found before anything is loaded, and is one line."""
    done = call(*words)
    assert (done.exit_code, done.output.count("\n")) == (2, 1), done.output


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["direct", "--rate", "-1"], "--rate: at least 0, not -1"),
        (["direct", "--rate", "nan"], "--rate: a finite number"),
        (["direct", "--seconds", "0"], "--seconds: more than 0"),
        (["direct", "--spike-factor", "1"], "--spike-factor: more than 1"),
        (["direct", "--edits", "2"], "--edits: at most 1"),
        (["idle", "--levels", "a"], "--levels: each a whole number, not a"),
        (["idle", "--levels", "-1,5"], "--levels: each at least 1"),
        (["idle", "--levels", ""], "--levels: several"),
        (["direct", "--chaos", "90 cut"], "--chaos: 90 cut 1 of the connections: the load ends after 33 s"),
        (["direct", "--chaos", "5 stop instance for 100"], "--chaos: 5 stop instance for 100 s"),
        (["direct", "--chaos", "5 cut 2"], "--chaos: '5 cut 2' is no fault"),
        (["direct", "--chaos", "inf cut"], "--chaos: 'inf cut' is no fault"),
        (["direct", "--chaos", "5 kill instance -1"], "--chaos: '5 kill instance -1' is no fault"),
        (["direct", "--chaos", "5 kill instance 1 2"], "--chaos: '5 kill instance 1 2' is no fault"),
        (["direct", "--chaos", "5 stop instance for 2 3"], "--chaos: '5 stop instance for 2 3' is no fault"),
        (["direct", "--shard", "\u00b2/3"], "--shard"),
        (
            ["mentions", *zeros("mentions")],
            "--writes, --edits, --deletions, --reads, --pins, --settings, --searches: one of",
        ),
        (["threads", *zeros("threads")], "--replies, --deletions, --follows, --marks, --reads, --pages: one of these"),
        (
            ["moderation", *zeros("moderation")],
            "--blocks, --bans, --removals: one of these weights has to be more than 0",
        ),
        (["noise", "--typing", "0.7", "--receipts", "0.6"], "--typing, --receipts: at most 1 together"),
        (["nothing"], "there is no scenario, profile or file 'nothing'"),
    ],
)
def test_what_is_said_names_the_option(words: list[str], says: str) -> None:
    """A value that cannot be: exit code 2, and one line with the option and what it takes, before anything starts."""
    done = call("run", *words, "--url", "http://127.0.0.1:1")
    assert (done.exit_code, done.output.count("\n")) == (2, 1), done.output
    assert says in done.output


@pytest.mark.parametrize("name", SCENARIOS)
def test_weights_are_known_as_such(name: str) -> None:
    """Each parameter that is described as a weight counts as one: with all of them 0 a worker could choose nothing."""
    kind = SCENARIOS[name].Parameters
    weights = [one.name for one in parameters(kind) if one.description.startswith("weight of")]
    assert sorted(weights) == sorted(kind.MIX)
    if weights:
        assert make(kind, dict.fromkeys(weights[1:], 0.0))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["run", "direct", "--url", "http://127.0.0.1:1", "--settle", "nan"], "'--settle'"),
        (["run", "direct", "--url", "http://127.0.0.1:1", "--start-at", "inf"], "'--start-at'"),
        (["capacity", "--seconds", "inf"], "'--seconds'"),
        (["capacity", "--users", "-1"], "'--users'"),
        (["peers", "--seconds", "nan"], "'--seconds'"),
        (["peers", "--rate", "nan"], "'--rate'"),
    ],
)
def test_numbers_are_finite(words: list[str], says: str) -> None:
    """What would never end, or compare with nothing, is a usage error that names the option."""
    done = call(*words)
    assert done.exit_code == 2 and says in done.output and "Traceback" not in done.output, done.output


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[run]\nworkers = 0", "--workers: "),
        ("[run]\nworkers = 'many'", "--workers: "),
        ("[run]\nsettle = -1", "--settle: "),
        ("[run]\nsettle = nan", "--settle: "),
        ("[run]\nclient = 'none'", "--client: "),
        ("[parameters]\nrate = nan", "--rate: a finite number"),
        ("[parameters]\nrate = 'inf'", "--rate: a finite number"),
        ("[parameters]\nrate = []", "--rate: a number"),
        ("[parameters]\npairs = 1.5", "--pairs: a whole number"),
    ],
)
def test_a_profile_is_checked_as_the_command_line_is(text: str, says: str, tmp_path: Path) -> None:
    """Its values are those of options: what no option takes is refused by its name, before anything starts."""
    file = tmp_path / "mine.toml"
    file.write_text(f"scenario = 'direct'\n{text}\n")
    done = call("run", str(file), "--url", "http://127.0.0.1:1")
    assert (done.exit_code, done.output.count("\n")) == (2, 1), done.output
    assert says in done.output


def test_a_fault_of_an_instance_that_there_is_not_is_refused() -> None:
    """Not done to another one instead."""
    target = targets.DevTarget.__new__(targets.DevTarget)
    target.instances = 2
    chaos.check(chaos.parse("5 kill instance 2"), target)
    with pytest.raises(chaos.ChaosError, match="--instances 3"):
        chaos.check(chaos.parse("5 kill instance 3"), target)


def test_a_target_that_cannot_be_reached_is_exit_code_3() -> None:
    """Scripts can distinguish it from a wrong command line and from a broken promise."""
    done = call("run", "direct", "--url", "http://127.0.0.1:1", "--plain", "--pairs", "1")
    assert (done.exit_code, "all attempts to connect to 127.0.0.1:1 failed" in done.output) == (3, True), done.output


LATE = {"send": run(millis=60).histograms["send"], results.GENERATOR_LATE: run(millis=60).histograms["send"]}


@pytest.mark.parametrize(
    ("result", "code", "says"),
    [
        (run(), 0, "every promise held"),
        (run(oracle=breached()), 1, "BREACHED"),
        (run(histograms={}), 4, "UNCOUNTED nothing was measured"),
        (run(histograms={}, oracle=breached()), 1, "BREACHED"),
        (run(histograms=LATE), 4, "UNCOUNTED the generator was too late"),
        (run(interrupted_at=5.0), 130, "every promise held"),
        (run(interrupted_at=5.0, oracle=breached()), 130, "BREACHED"),
    ],
)
def test_the_exit_code_says_what_a_run_is_worth(
    result: results.Result, code: int, says: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A promise that broke; no figure that counts; an interruption: each has its code, and the result is written."""

    async def played(*_: object) -> results.Result:
        return result

    monkeypatch.setattr("loadtest.run_command._run", played)
    out = tmp_path / "run.json"
    done = call("run", "direct", "--dev", "--out", str(out))
    assert done.exit_code == code, done.output
    assert says in done.output and ("every promise held" in done.output) == (says == "every promise held")
    assert results.read(out) == result
    if code != 130:
        assert call("audit", str(out)).exit_code == (code if says != "UNCOUNTED the generator was too late" else 0)


def test_a_name_is_a_scenario_or_a_profile() -> None:
    """`run NAME` can mean one only."""
    assert not set(profiles.names()) & SCENARIOS.keys()


def test_ctrl_c_in_another_command_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 130, as after a run, and no traceback."""

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("loadtest.peers.command._installed", interrupted)
    done = call("peers")
    assert (done.exit_code, done.output) == (130, "loadtest: interrupted\n")


def test_a_disk_that_is_full_costs_the_files_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What the run has found is printed nevertheless."""

    async def played(*_: object) -> results.Result:
        return run()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("loadtest.run_command._run", played)
    monkeypatch.setattr("loadtest.run_command.write_report", full)
    done = call("run", "direct", "--dev", "--out", str(tmp_path / "run.json"))
    assert done.exit_code == 1
    assert "every promise held" in done.output and "No space left" in done.output


def test_a_closed_terminal_ends_a_run_except_under_nohup() -> None:
    """SIGHUP is heeded as SIGTERM is, and not where it is ignored."""
    before = {number: signal.getsignal(number) for number in (signal.SIGHUP, signal.SIGINT)}  # we may be under nohup
    try:
        for number in before:
            signal.signal(number, signal.default_int_handler)
        assert ending_signals() == [signal.SIGTERM, signal.SIGHUP]
        assert ending_signals(signal.SIGINT) == [signal.SIGTERM, signal.SIGHUP, signal.SIGINT]
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        assert ending_signals() == [signal.SIGTERM]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# As a shell starts what it puts into the background, and as nohup does.
IN_BACKGROUND = (
    "import os, signal, sys; "
    "signal.signal(signal.SIGINT, signal.SIG_IGN); signal.signal(signal.SIGHUP, signal.SIG_IGN); "
    "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
)


@pytest.mark.services
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_is_ended_leaves_nothing_behind(number: signal.Signals, tmp_path: Path) -> None:
    """SIGTERM, as from `timeout` or CI, also in the background, ends the server and the services that --dev has
    started, and the run says so; kill -9, by which nothing is said, ends them as well."""
    before = ["-c", IN_BACKGROUND] if number == signal.SIGTERM else []
    command = [sys.executable, *before, "-m", "loadtest", "run", "direct", "--dev", "--pairs", "1", "--rate", "5"]
    command += ["--plain", "--out", str(tmp_path / "run.json")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        heard = []
        for line in process.stdout:
            heard.append(line)
            if "connected" in line:
                break
        else:
            pytest.fail("".join(heard))
        started = list(family(process.pid))
        process.send_signal(number)
        said = process.stdout.read()
    assert len(started) > 5
    if number != signal.SIGKILL:
        assert "interrupted" in said and process.returncode == INTERRUPTED
        assert not [pid for pid in started if Path(f"/proc/{pid}").exists()]
    block_until(lambda: not any(map(command_line, started)), lambda: [pid for pid in started if command_line(pid)])


IN_FOREGROUND = (  # whatever these tests themselves were started by
    "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); "
    "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
)


@pytest.mark.services
def test_ctrl_c_keeps_what_was_measured(tmp_path: Path) -> None:
    """As the terminal sends it, to all processes: the load ends, what was done until then is audited, and the result
    is written as a part; the exit code is 130, and nothing is left."""
    out = tmp_path / "run.json"
    command = [sys.executable, "-c", IN_FOREGROUND, "-m", "loadtest", "run", "direct", "--dev", "--pairs", "2"]
    command += ["--rate", "40", "--warmup", "0", "--seconds", "3000", "--plain", "--out", str(out), "--workers", "2"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        heard = []
        for line in process.stdout:
            heard.append(line)
            if "acknowledged" in line:
                break
        else:
            pytest.fail("".join(heard))
        started = list(family(process.pid))
        os.killpg(process.pid, signal.SIGINT)
        said = process.stdout.read()
    assert process.returncode == INTERRUPTED, said
    result = results.read(out)
    assert result.interrupted_at is not None and result.seconds == pytest.approx(result.interrupted_at, abs=30)
    assert result.oracle.holds, result.oracle.breaches
    assert result.oracle.checked["missing"] > 0 and result.has_measured
    assert "interrupted after" in said and str(out) in said
    block_until(lambda: not any(map(command_line, started)), lambda: [pid for pid in started if command_line(pid)])


def test_a_run_that_outlives_its_tokens_is_refused() -> None:
    """Before it starts, not by refusals at its end."""
    ours = [Person(0, "u", mint("k" * 32, "u"))]
    check_tokens(ours, 3600)
    with pytest.raises(targets.TargetError, match="--key"):
        check_tokens(ours, 48 * 3600)
    check_tokens([Person(0, "u", "opaque")], 48 * 3600)


def test_a_parameter_that_does_not_exist_is_refused() -> None:
    """A misspelt parameter is an error, rather than a run without it."""
    with pytest.raises(ParameterError):
        make(SCENARIOS["direct"].Parameters, {"paris": 3})


@pytest.mark.parametrize(
    ("host", "ours"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("localhost", True), ("::1", True), ("10.0.0.1", False)],
)
def test_only_loopback_is_loaded_without_asking(host: str, ours: bool) -> None:
    """Servers elsewhere are loaded only by those who say that they own them."""
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
    assert len(chaos.parse(";".join(f"{at} cut" for at in range(100)))) == 100  # too long for the name of a file


def test_without_trio_websocket_the_reference_client_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its optional package the reference client ends with the command that installs it."""
    monkeypatch.setitem(sys.modules, "trio_websocket", None)
    done = call("run", "direct", "--dev", "--client", "reference")
    assert done.exit_code == 2
    assert "/bin/pip install '.[loadtest]'" in done.output
