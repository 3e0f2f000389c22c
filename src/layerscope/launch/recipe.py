"""Recipes: a study of many runs that need one another, as one YAML file.

::

    output: outputs/studies/mine
    variables: {images: 1400}            # --set images=200 changes them
    steps:
      data:                              # one run, in OUTPUT/data
        verb: phantom
        arguments: ["${here}", --n, "${images}"]
      vae:                               # two runs, OUTPUT/vae/base and OUTPUT/vae/feat
        verb: fit
        config: configs/vae/train/phantom_base.yaml
        set: {data.init_args.root: "${data}"}
        runs:
          base: {}
          feat: {config: configs/vae/train/phantom_feat.yaml}
        seeds: [1, 2]                    # each of them twice: base_seed-1, base_seed-2, ...
      diagnosis:
        verb: test
        config: configs/vae/diagnostic/phantom.yaml
        each: vae                        # one for each run of vae, of the same name; or [vae, other]
        set:
          data.init_args.root: ${data}
          model.init_args.autoencoder.init_args.source: ${each}/vae_final
      comparison:
        verb: compare
        of: diagnosis
        arguments: [--baseline, base]

``${NAME}`` is a variable, ``output``, the directory of a step with one run, of a run (``${vae.base}``), of the run
itself (``here``), or of the run it is made for (``each``); or the run's ``seed``, which is its seed_everything. A run
waits for every run that it names so, and for nothing else.
``${oc.env:NAME}`` and other things with a colon are left to the configuration.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from layerscope.errors import ConfigurationError, listed
from layerscope.launch.job import Job

LIGHTNING_VERBS = ("fit", "test")
_VERBS = (*LIGHTNING_VERBS, "phantom", "compare")
_STEP_KEYS = ("verb", "config", "set", "runs", "seeds", "each", "of", "arguments")
_REFERENCE = re.compile(r"\$\{([A-Za-z_][\w.-]*)\}")
_RESERVED = ("output", "here", "each", "seed")
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][\w.-]*")


@dataclass(frozen=True)
class Recipe:
    """A recipe as it is written. path: its file, for messages. steps: name to what it says, in order."""

    path: Path
    output: Path
    variables: Mapping[str, Any]
    steps: Mapping[str, Mapping[str, Any]]

    def jobs(self) -> list[Job]:
        """Every run of every step, in the order of the file; ``Job.needs`` from what each refers to.

        Raises:
            ConfigurationError: a reference to nothing, a name twice, or a step that cannot be read; the step is named.
        """
        made: dict[str, dict[str, Job]] = {}
        for name, step in self.steps.items():
            made[name] = dict(_Step(self, name, step, made).jobs())
        return [job for runs in made.values() for job in runs.values()]


def read_recipe(path: Path, output: Path | None = None, variables: Mapping[str, Any] | None = None) -> Recipe:
    """A recipe's file, with another output and other values of its variables.

    Raises:
        ConfigurationError: it cannot be read, or ``variables`` names one that it does not have.
    """
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigurationError(f"The recipe {path} cannot be read as YAML: {error}.") from error
    if not isinstance(found, dict) or not isinstance(found.get("steps"), dict) or not found["steps"]:
        raise ConfigurationError(f"The recipe {path} has no `steps`: a mapping of names to steps, each with a verb.")
    if strange := sorted(set(map(str, found)) - {"output", "variables", "steps"}):
        raise ConfigurationError(f"The recipe {path} has {listed(strange)}: expected output, variables and steps.")
    known = found.get("variables") or {}
    for name in variables or {}:
        if name not in known:
            raise ConfigurationError(
                f"The recipe {path} has no variable {name!r}{_close(name, known)}; it has {listed(sorted(known))}."
            )
    where = output or Path(str(found.get("output", f"outputs/studies/{path.stem}")))
    return Recipe(path, where, {**known, **(variables or {})}, found["steps"])


@dataclass
class _Step:
    """One step, as it becomes jobs. made: the runs of the steps before."""

    recipe: Recipe
    name: str
    step: Mapping[str, Any]
    made: Mapping[str, Mapping[str, Job]]
    needed: list[str] = field(default_factory=list)

    def jobs(self) -> Iterator[tuple[str, Job]]:
        self._check()
        several = bool({"runs", "seeds", "each"} & set(self.step))
        seen: set[str] = set()
        for run, own, each in self._runs():
            if run in seen:
                raise self._wrong(f"has two runs called {run!r}")
            seen.add(run)
            self.needed = []
            place = self.recipe.output / self.name / run if several else self.recipe.output / self.name
            local: dict[str, Any] = {"here": str(place)}
            if "seed_everything" in own:
                local["seed"] = own["seed_everything"]
            if each is not None:
                local["each"] = str(each.run)
                self.needed.append(each.name)
            arguments = tuple(self._arguments(place, own, local))
            title = f"{self.name}/{run}" if several else self.name
            yield run, Job(title, self.step["verb"], arguments, place, tuple(dict.fromkeys(self.needed)))

    def _check(self) -> None:
        if not _PLAIN_NAME.fullmatch(str(self.name)):
            raise self._wrong("is no plain name of letters, digits, _ and -")
        if self.name in ("jobs", "logs"):
            raise self._wrong(f"would write into the folder {self.name}, which holds what the study keeps of its runs")
        if self.name in self.recipe.variables or self.name in _RESERVED:
            raise self._wrong(f"has the name of a variable, or one of {', '.join(_RESERVED)}")
        if not isinstance(self.step, Mapping):
            raise self._wrong("is no mapping with a verb")
        for key in self.step:
            if key not in _STEP_KEYS:
                raise self._wrong(f"has {key!r}{_close(str(key), _STEP_KEYS)}; expected {', '.join(_STEP_KEYS)}")
        if self.step.get("verb") not in _VERBS:
            raise self._wrong(f"has the verb {self.step.get('verb')!r}; expected {', '.join(_VERBS)}")
        lightning = self.step["verb"] in LIGHTNING_VERBS
        misplaced = {"arguments", "of"} if lightning else {"config", "set", "runs", "seeds", "each"}
        misplaced |= {"of"} if self.step["verb"] != "compare" else set()
        if wrong := sorted(misplaced & set(self.step)):
            raise self._wrong(f"has {listed(wrong)}, which does not go with the verb {self.step['verb']}")
        for key in ("set", "runs"):
            if not isinstance(self.step.get(key) or {}, Mapping):
                raise self._wrong(f"has a `{key}` that is no mapping")

    def _runs(self) -> Iterator[tuple[str, Mapping[str, Any], Job | None]]:
        """Name, own settings, and the run it is made for."""
        if "each" in self.step:
            for name, job in self._runs_of(self.step["each"]):
                yield name, {}, job
        seeds = self.step.get("seeds") or [None]
        runs = self.step.get("runs") or ({} if "each" in self.step else {self.name: {}})
        for name, own in runs.items():
            if not isinstance(own or {}, Mapping) or not _PLAIN_NAME.fullmatch(str(name)):
                raise self._wrong(f"has a run {name!r} that is no plain name with a mapping of settings")
            for seed in seeds:
                title = str(name) if seed is None else f"{name}_seed-{seed}"
                yield title, {**(own or {}), **({} if seed is None else {"seed_everything": seed})}, None

    def _arguments(self, place: Path, own: Mapping[str, Any], local: Mapping[str, Any]) -> Iterator[str]:
        if self.step["verb"] in LIGHTNING_VERBS:
            settings = {**(self.step.get("set") or {}), **own}
            configs = settings.pop("config", self.step.get("config"))
            if not configs:
                raise self._wrong("names no config")
            for config in configs if isinstance(configs, list) else [configs]:
                yield from ("--config", self._filled(config, local))
            yield from (f"--output_root={place.parent}", f"--experiment_name={place.name}")
            for key, value in settings.items():
                filled = self._filled(value, local)
                yield f"--{key}={filled}"
            return
        if "of" in self.step:
            for _, job in self._runs_of(self.step["of"]):
                self.needed.append(job.name)
                yield str(job.run)
            yield from ("--output", str(place))
        for argument in self.step.get("arguments") or ():
            yield self._filled(argument, local)

    def _filled(self, value: Any, local: Mapping[str, Any]) -> str:
        """A value as the command line takes it, with every reference in it replaced."""
        found = self._resolved(value, local)
        return found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)

    def _resolved(self, value: Any, local: Mapping[str, Any], within: tuple[str, ...] = ()) -> Any:
        """``value`` with its references replaced; one that stands alone keeps its type. within: variables around it."""
        match value:
            case dict():
                return {key: self._resolved(one, local, within) for key, one in value.items()}
            case list():
                return [self._resolved(one, local, within) for one in value]
            case str() if alone := _REFERENCE.fullmatch(value):
                return self._meant(alone[1], local, within)
            case str():
                return _REFERENCE.sub(lambda match: str(self._meant(match[1], local, within)), value)
            case _:
                return value

    def _meant(self, name: str, local: Mapping[str, Any], within: tuple[str, ...]) -> Any:
        """What a reference stands for."""
        if name in local:
            return local[name]
        if name == "output":
            return str(self.recipe.output)
        if name in within:
            raise self._wrong(f"refers to the variable {name!r}, which refers to itself")
        if name in self.recipe.variables:
            return self._resolved(self.recipe.variables[name], local, (*within, name))
        return str(self._run_called(name).run)

    def _run_called(self, name: str) -> Job:
        step, _, run = name.partition(".")
        if step not in self.made:
            names = [*self.recipe.variables, *_RESERVED, *self.made]
            raise self._wrong(
                f"refers to ${{{name}}}{_close(name, names)}; before it there are {listed(sorted(names))}"
            )
        runs = self.made[step]
        if not run and len(runs) == 1:
            run = next(iter(runs))
        if run not in runs:
            raise self._wrong(f"refers to ${{{name}}}; the runs of {step} are {listed(list(runs))}")
        self.needed.append(runs[run].name)
        return runs[run]

    def _runs_of(self, steps: object) -> Iterator[tuple[str, Job]]:
        """Name and run of a step, or of each of several."""
        for step in steps if isinstance(steps, list) else [steps]:
            if step not in self.made:
                near = _close(str(step), self.made)
                raise self._wrong(f"names the step {step!r}{near}; before it there are {listed(list(self.made))}")
            yield from self.made[str(step)].items()

    def _wrong(self, what: str) -> ConfigurationError:
        return ConfigurationError(f"The recipe {self.recipe.path}: the step {self.name!r} {what}.")


def _close(name: str, known: Mapping[str, Any] | Sequence[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {near[0]}?)" if near else ""
