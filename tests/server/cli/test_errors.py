"""server.cli.errors: what users can correct is one line and an exit code, from wherever it comes; a defect is not."""

import psycopg
import pytest
import structlog

from server.cli.errors import FAILED, MISUSED, report_errors
from server.config.settings import ConfigError
from store.errors import Unavailable

SECRET = "S3CRET"
IN_USE = OSError(98, "Address already in use")
GONE = psycopg.OperationalError("the connection is lost")


class OwnError(Exception):
    """An error of one command, that it names itself."""


def grouped(*errors: BaseException) -> BaseException:
    """As it comes out of one nursery in another."""
    return BaseExceptionGroup("outer", [BaseExceptionGroup("inner", errors)])


@pytest.mark.parametrize("wrap", [lambda error: error, grouped])
@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ConfigError("LISTEN: expected host:port"), MISUSED, "LISTEN: expected host:port"),
        (Unavailable("PostgreSQL: away"), FAILED, "PostgreSQL: away"),
        (IN_USE, FAILED, "Address already in use"),
        (GONE, FAILED, "PostgreSQL: the connection is lost"),
        (psycopg.errors.UndefinedTable("no"), FAILED, "has `parley migrate` been run"),
        (psycopg.ProgrammingError(f"postgres:/x:{SECRET}@"), FAILED, "PostgreSQL: ProgrammingError"),
        (OwnError("no such server"), FAILED, "no such server"),
    ],
)
def test_one_line(wrap: object, error: BaseException, code: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """By itself or in groups of groups, with its exit code."""
    assert callable(wrap)
    with pytest.raises(SystemExit) as ended, report_errors(OwnError):
        raise wrap(error)
    shown = capsys.readouterr().err
    assert ended.value.code == code and said in shown and SECRET not in shown
    assert len(shown.splitlines()) == (2 if code == MISUSED else 1)


def test_several(capsys: pytest.CaptureFixture[str]) -> None:
    """The first of several is reported."""
    with pytest.raises(SystemExit), report_errors():
        raise grouped(IN_USE, GONE)
    assert "Address already in use" in capsys.readouterr().err


@pytest.mark.parametrize("error", [KeyError("x"), grouped(KeyError("x")), grouped(IN_USE, KeyError("x"))])
def test_defects_keep_their_traceback(error: BaseException) -> None:
    """Also beside an error that is none."""
    with pytest.raises(type(error)) as caught, report_errors():
        raise error
    assert caught.value is error


def test_control_c() -> None:
    """Of a group that is only the user's Ctrl-C that alone is left, which click reports."""
    with pytest.raises(KeyboardInterrupt), report_errors():
        raise grouped(KeyboardInterrupt())


def test_a_line_of_the_log_shows_no_variables(capsys: pytest.CaptureFixture[str]) -> None:
    """A defect that a command logs beside its work has its traceback, and no values: one of them may be a password."""
    password = "".join(["S3C", "RET"])
    with report_errors():
        try:
            raise RuntimeError(str(len(password)))
        except RuntimeError:
            structlog.get_logger("test").exception("failed")
    said = capsys.readouterr()
    assert "failed" in said.err and "RuntimeError" in said.err and "S3CRET" not in said.err + said.out
