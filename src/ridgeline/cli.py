"""The command line: train, evaluate, verify, list, doctor. Heavy imports happen where they are needed."""

import contextlib
import dataclasses
import io
import os
import re
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from ridgeline.errors import RidgelineError, UsageError

USAGE = """\
usage: ridgeline train ALGORITHM ENVIRONMENT [options]    train, judge and report
       ridgeline evaluate RUN [options]                   play greedy episodes with a run's policies
       ridgeline verify [SYSTEM] [--full]                  prove a system, all of them, or module:Class of your own
       ridgeline list                                      algorithms and environments
       ridgeline doctor                                   what this machine has, and whether JAX computes rightly

`ridgeline train ppo CartPole-v1 --help` lists every option with its preset. An environment is an id
(CartPole-v1, LunarLander-v3), `module:Id`, or `module:callable` of your own."""


@dataclasses.dataclass(frozen=True)
class TrainFlags:
    """How the run is run."""

    steps: int  # environment steps for each seed, rounded up to whole iterations
    seeds: str  # how many (10 means 0 to 9), or which: 3,5,8 or 20:30; one alone: 7,
    backend: str | None = None  # jax, envpool, gymnasium, gymnasium-async or stepped; the first that has the id
    device: str | None = None  # cpu, gpu or tpu; what JAX prefers
    evaluations: int = 10  # evaluations on the way, evenly spaced
    evaluation_episodes: int = 10  # greedy episodes in each of them
    final_episodes: int = 100  # greedy episodes that judge the final policy of each seed
    run: str | None = None  # the run's name: its folder is OUT/RUN; ALGORITHM-ENVIRONMENT-NUMBER
    out: Path = Path("runs")  # the folder that holds runs
    csv: bool = False  # write metrics.csv too
    tensorboard: bool = False  # write TensorBoard events too
    quiet: bool = False  # print only the result


@dataclasses.dataclass(frozen=True)
class EvaluateFlags:
    """How a run's policies are judged."""

    episodes: int = 100  # greedy episodes of each seed's policy
    seed: int = 2_000_003  # decides the starts, the same for every policy
    env: str | None = None  # another environment with the same spaces; the run's own
    backend: str | None = None  # as in train


@dataclasses.dataclass(frozen=True)
class VerifyFlags:
    """How thoroughly a system is proven. Each row is a property: its worst error against a reference."""

    full: bool = False  # the long version: more random cases, twenty seeds for each probe


class Stopped(BaseException):
    """A signal asks the process to stop."""

    def __init__(self, number: int) -> None:
        self.number = number


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line; leaves with the exit code of the contract."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    commands: dict[str, Callable[[list[str]], int]] = {
        "train": _train,
        "evaluate": _evaluate,
        "verify": _verify,
        "list": _list,
        "doctor": _doctor,
    }
    try:
        if not words or words[0] in ("-h", "--help", "help"):
            print(USAGE)
            sys.exit(0 if words else 2)
        if words[0] == "--version":
            import importlib.metadata

            print(importlib.metadata.version("ridgeline"))
            sys.exit(0)
        if words[0] not in commands:
            raise UsageError(f"no command {words[0]!r}: {_nearest(words[0], list(commands))}")
        sys.exit(commands[words[0]](words[1:]))
    except RidgelineError as error:
        _fail(" ".join(str(error).split("\n")), error.exit_code)
    except Stopped as stop:
        _fail(f"stopped by {signal.Signals(stop.number).name}", 128 + stop.number)
    except KeyboardInterrupt:
        _fail("stopped by SIGINT", 130)
    except BrokenPipeError:
        sys.exit(0)
    except Exception as error:
        if os.environ.get("RIDGELINE_TRACEBACK"):
            raise
        text = " ".join(str(error).split())[:300]
        _fail(f"internal error: {type(error).__name__}: {text} (RIDGELINE_TRACEBACK=1 shows where)", 1)


def _fail(message: str, code: int) -> NoReturn:
    print(f"ridgeline: {message}", file=sys.stderr)
    sys.exit(code)


def _nearest(word: str, known: list[str]) -> str:
    import difflib

    near = difflib.get_close_matches(word, known, n=1, cutoff=0.4)
    return f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"


def _parse[Flags](kind: type[Flags], default: Flags, program: str, words: list[str]) -> Flags:
    """Flags of a dataclass, its nested records flattened. A mistake is a `UsageError` of one line."""
    import tyro

    said = io.StringIO()
    wants_help = any(word in ("-h", "--help") for word in words)
    try:
        with contextlib.nullcontext() if wants_help else contextlib.redirect_stderr(said):
            return tyro.cli(
                kind,
                prog=program,
                default=default,
                args=words,
                config=(tyro.conf.OmitArgPrefixes, tyro.conf.SuppressFixed),
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        raise UsageError(_first_sentence(said.getvalue()) + f" ({program} --help lists all)") from None


def _first_sentence(box: str) -> str:
    """What a framed message of the parser says, in one line: its text up to the first rule, and the near match."""
    rows = [re.sub(r"^[│|]\s?|\s*[│|]$", "", line).strip() for line in box.splitlines()]
    joined = " ".join("\n" if set(row) <= set("─╭╮╰╯-+ ") else row for row in rows[1:])
    text, *rest = [part for part in joined.split("\n") if part.strip()]
    near = re.search(r"Perhaps you meant: +(--[\w-]+)", " ".join(rest))
    return " ".join(text.split()) + (f": did you mean {near[1]}?" if near else "")


def _positionals(words: list[str], names: Sequence[str], program: str) -> tuple[list[str], list[str]]:
    """The first words, as many as `names`, and the others. Raises `UsageError` where one is missing."""
    found = []
    for name in names:
        if not words or words[0].startswith("-"):
            if "-h" in words or "--help" in words:
                print(USAGE)
                sys.exit(0)
            raise UsageError(f"{program} needs {name}: {program} {' '.join(names)}")
        found.append(words[0])
        words = words[1:]
    return found, words


def _train(words: list[str]) -> int:
    (algorithm, env), rest = _positionals(words, ("ALGORITHM", "ENVIRONMENT"), "ridgeline train")
    device = _peek(rest, "--device")
    _use_all_cores(device)
    import ridgeline

    ridgeline.start  # noqa: B018  (imports what training needs, and times it)
    from ridgeline.environments import BACKENDS, make
    from ridgeline.experiments.progress import show
    from ridgeline.experiments.run import resolve
    from ridgeline.types import HostFactory

    if (backend := _peek(rest, "--backend")) not in (None, *BACKENDS):
        raise UsageError(f"no backend {backend!r}: {_nearest(str(backend), list(BACKENDS))}")
    from ridgeline.algorithms import by_name

    by_name(algorithm)
    sys.path.insert(0, os.getcwd())  # so that module:Id finds a file beside the user
    found = make(env, backend)
    chosen = resolve(algorithm, found)
    kind = dataclasses.make_dataclass("Train", [("run", TrainFlags), ("algorithm", type(chosen.algorithm))])
    default = kind(TrainFlags(chosen.steps, "3" if isinstance(found, HostFactory) else "10"), chosen.algorithm)
    flags: Any = _parse(kind, default, f"ridgeline train {algorithm} {env}", rest)
    run: TrainFlags = flags.run
    training = ridgeline.start(
        flags.algorithm,
        found,
        steps=run.steps,
        seeds=parse_seeds(run.seeds),
        evaluations=run.evaluations,
        evaluation_episodes=run.evaluation_episodes,
        final_episodes=run.final_episodes,
        out=run.out,
        name=run.run,
        source=env,
        sinks=tuple(name for name in ("csv", "tensorboard") if getattr(run, name)),
        command=shlex.join(["ridgeline", "train", *words]),
    )
    with _signals():
        show(training, run.quiet)
    return 0


def _peek(words: list[str], flag: str) -> str | None:
    """The value of a flag that is needed before the others can be parsed."""
    for i, word in enumerate(words):
        if word == flag and i + 1 < len(words):
            return words[i + 1]
        if word.startswith(f"{flag}="):
            return word.partition("=")[2]
    return None


def _use_all_cores(device: str | None) -> None:
    """One XLA device a core, so that seeds are shared out; only the command line decides that."""
    import jax

    if device not in (None, "cpu", "gpu", "cuda", "tpu"):
        raise UsageError(f"no device {device!r}: choose cpu, gpu or tpu")
    if device is not None:
        jax.config.update("jax_platforms", "cuda" if device == "gpu" else device)
    jax.config.update(
        "jax_num_cpu_devices", len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    )
    try:
        jax.devices()
    except Exception as error:  # which one depends on the platform
        reason = " ".join(str(error).split())[:120]
        raise UsageError(f"device {device or 'cpu'} is not to be had here: {reason}") from None


def parse_seeds(text: str) -> tuple[int, ...]:
    """10 → 0 … 9; 3,5,8 → those; 20:30 → 20 … 29; a trailing comma makes one seed: 7, → 7."""
    try:
        if ":" in text:
            low, high = text.split(":")
            return tuple(range(int(low), int(high)))
        if "," in text:
            return tuple(int(word) for word in text.split(",") if word.strip())
        count = int(text)
    except ValueError:
        raise UsageError(f"seeds {text!r}: give how many (10), or which (3,5,8 or 20:30)") from None
    if not 1 <= count <= 100_000:
        raise UsageError(f"seeds {text!r}: that many cannot be trained; a single seed 7 is written 7,")
    return tuple(range(count))


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    def stop(number: int, _: Any) -> None:
        raise Stopped(number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _evaluate(words: list[str]) -> int:
    (folder,), rest = _positionals(words, ("RUN",), "ridgeline evaluate")
    flags = _parse(EvaluateFlags, EvaluateFlags(), "ridgeline evaluate RUN", rest)
    _use_all_cores(None)
    from ridgeline.experiments.progress import show_evaluation
    from ridgeline.experiments.run import Run

    path = Path(folder) if Path(folder).exists() else Path("runs") / folder
    if not path.is_dir():
        raise UsageError(f"no run {folder!r}, neither as a folder nor in runs/")
    if flags.episodes < 1:
        raise UsageError(f"episodes is {flags.episodes}: it must be at least 1")
    sys.path.insert(0, os.getcwd())
    show_evaluation(Run(path), flags.env, flags.backend, flags.episodes, flags.seed)
    return 0


def _verify(words: list[str]) -> int:
    system = words[0] if words and not words[0].startswith("-") else None
    program = "ridgeline verify [SYSTEM]"
    flags = _parse(VerifyFlags, VerifyFlags(), program, words[system is not None :])
    _use_all_cores(None)
    from ridgeline.theory.verify import verify

    sys.path.insert(0, os.getcwd())  # so that module:Class finds a file beside the user
    with _signals():
        return verify(system, flags.full)


def _list(words: list[str]) -> int:
    _parse(dataclasses.make_dataclass("List", []), None, "ridgeline list", words)
    from ridgeline.algorithms import REGISTRY
    from ridgeline.environments import ids

    print("algorithms")
    for name, kind in REGISTRY.items():
        print(f"  {name:6} {(kind.__doc__ or '').split('. ')[0].rstrip('.')}")
    for backend, names in ids().items():
        native = backend == "jax"
        print(f"\nenvironments: {backend}" + (" (compiled with the algorithm)" if native else f" ({len(names)})"))
        shown = names if native else sorted(n for n in names if "/" not in n)
        print(_columns(shown))
    print("\nand any Gymnasium environment of yours: ridgeline train ppo module:Id")
    return 0


def _columns(names: Sequence[str], most: int = 60) -> str:
    import textwrap

    more = f", … {len(names) - most} more" if len(names) > most else ""
    return textwrap.fill(", ".join(names[:most]) + more, 100, initial_indent="  ", subsequent_indent="  ")


def _doctor(words: list[str]) -> int:
    _parse(dataclasses.make_dataclass("Doctor", []), None, "ridgeline doctor", words)
    _use_all_cores(None)
    from ridgeline.experiments.doctor import examine

    return examine()


if __name__ == "__main__":
    main()
