"""What an exported autoencoder says of itself: the model card of its folder, and a few lines for the terminal."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from layerscope.report.markdown import escaped, markdown_table, without_controls

_FRONT_MATTER = {"library_name": "diffusers", "tags": ["layerscope", "autoencoder", "vae"]}
_WORDS = {
    "safe": "fits float16",
    "marginal": "fits float16 on these images, with less than the margin",
    "overflows": "overflows float16: run it in float32 or bfloat16",
}


def model_card(export: Mapping[str, Any]) -> str:
    """The README.md of an exported folder: Markdown with YAML front matter.

    export: the content of its export.json. Whatever comes from files, names included, is escaped.
    """
    model = escaped(export["model"])
    parts = [
        f"---\n{yaml.safe_dump(_FRONT_MATTER, sort_keys=False)}---",
        f"# {model} trained with layerscope",
        f"Trained: {escaped(export['trained'])}. Weights: {escaped(export['weights'])} (averaged: an average over the "
        "training's steps; current: those of the last step). "
        f"{export['latent_channels']} latent channels, {export['downsampling']} pixels per latent position.",
        _fenced(
            f"from diffusers import {re.sub(r'[^A-Za-z0-9_]', '', str(export['model']))}\n\n"
            f'vae = {re.sub(r"[^A-Za-z0-9_]", "", str(export["model"]))}.from_pretrained("THIS_FOLDER")',
            "python",
        ),
        "## Training",
        _table(
            ["what", "value"],
            [
                ["SHA-256 of the training data", export["data_hash"] or "not known"],
                ["SHA-256 of the starting weights", export["start_hash"] or "random weights, or not known"],
                *([f"loss {name}", value] for name, value in export["losses"].items()),
                *([f"metric {name}", value] for name, value in export["metrics"].items()),
            ],
        ),
    ]
    if export["command"]:
        parts += ["Command:", _fenced(str(export["command"]), "")]
    parts += ["## Latents", *_latents(export)]
    parts += ["## float16", *_audit(export["audit"])]
    if export["not_measured"]:
        rows = [[row["what"], row["reason"]] for row in export["not_measured"]]
        parts += ["## Not measured", _table(["what", "reason"], rows)]
    return "\n\n".join(parts) + "\n"


def export_lines(export: Mapping[str, Any]) -> list[str]:
    """What the terminal says of an export."""
    lines = [f"Weights: {export['weights']}; trained: {export['trained']}."]
    scaling, statistics, drift, audit = (export[name] for name in ("scaling", "statistics", "drift", "audit"))
    if statistics is not None:
        lines.append(f"Latents over {statistics['images']} images, by channel:")
        lines.append(f"  mean {_listed(statistics['mean'])}")
        lines.append(f"  std  {_listed(statistics['std'])}")
    if drift is not None:
        lines.append("Against the starting autoencoder, by channel:")
        lines.append(f"  mean moved by {_listed(drift['mean_shift'], sign=True)} (in its standard deviations)")
        lines.append(f"  std times     {_listed(drift['std_ratio'])}")
        lines.append(
            f"  1 / overall std: {_number(drift['scaling_factor_before'])} before, "
            f"{_number(drift['scaling_factor_after'])} after"
        )
    for name in ("scaling_factor", "shift_factor"):
        if name in scaling["exported"]:
            start, now = scaling["start"].get(name), scaling["exported"][name]
            kept = "" if scaling["re_estimated"] else " (kept)"
            lines.append(f"{name}: {_shown(now)}{kept}; the starting configuration has {_shown(start)}")
    if audit is not None:
        lines.append(_verdict(audit))
    lines += [f"Not measured: {row['what']}: {row['reason']}" for row in export["not_measured"]]
    return [without_controls(line) for line in lines]


def _latents(export: Mapping[str, Any]) -> list[str]:
    scaling, statistics, drift = export["scaling"], export["statistics"], export["drift"]
    names = list(dict.fromkeys([*scaling["start"], *scaling["exported"]]))
    rows = [[name, _shown(scaling["start"].get(name)), _shown(scaling["exported"].get(name))] for name in names]
    if scaling["re_estimated"]:
        story = (
            f"The encoder was trained, so the factors were measured again, on {statistics['images']} images. "
            "`scaling_factor` is 1 / standard deviation over all channels, `shift_factor` the mean over all channels. "
            "Where there is `latents_std`, it is in units of the overall standard deviation, so that "
            "(z − latents_mean) · scaling_factor / latents_std, which SDXL's pipelines compute, has mean 0 and "
            "standard deviation 1 in every channel. A diffusion model that was trained on the starting autoencoder's "
            "latents does not fit these."
        )
    elif export["trained"] == "decoder":
        story = "Only the decoder was trained, so the factors are those of the starting autoencoder."
    else:
        story = "The factors are those of the starting autoencoder, although the encoder was trained: see below."
    parts = [story, _table(["entry of config.json", "starting autoencoder", "this one"], rows)]
    if statistics is not None:
        header = ["channel", "mean", "std", "of it the posterior's own"]
        columns = [statistics["mean"], statistics["std"], statistics["posterior_std"]]
        if drift is not None:
            header += ["mean moved by (starting std)", "std times"]
            columns += [drift["mean_shift"], drift["std_ratio"]]
        body = [[str(channel), *map(_number, values)] for channel, values in enumerate(zip(*columns))]
        parts += [f"Raw latents, drawn from the posterior, over {statistics['images']} images:", _table(header, body)]
    if drift is not None:
        parts.append(
            "Measured on the same images, 1 / overall standard deviation was "
            f"{_number(drift['scaling_factor_before'])} before the training and is "
            f"{_number(drift['scaling_factor_after'])} now."
        )
    return parts


def _audit(audit: Mapping[str, Any] | None) -> list[str]:
    if audit is None:
        return ["Activations were not measured."]
    rows = [[block, _number(value)] for block, value in audit["largest"].items()]
    return [escaped(_verdict(audit)), _table(["block", "max |activation|"], rows)]


def _verdict(audit: Mapping[str, Any]) -> str:
    half = audit["half_precision"]
    return (
        f"float16: {half['verdict']}. The largest activation of {audit['images']} images, in float32, is "
        f"{_number(half['largest'])} ({half['block']}); the limit is {half['limit']:.0f}, and {half['margin']:g} times "
        f"the largest must stay below it to be safe. It {_WORDS[half['verdict']]}."
    )


def _table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    return markdown_table(header, [[_shown(cell) for cell in row] for row in rows])


def _fenced(text: str, language: str) -> str:
    """A code block whose fence is longer than any in the text."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    lines = [without_controls(line) for line in text.splitlines()]
    return "\n".join([f"{fence}{language}", *lines, fence])


def _shown(value: object) -> str:
    match value:
        case None:
            return "none"
        case bool() | str() | int():
            return str(value)
        case float():
            return _number(value)
        case list() | tuple():
            return ", ".join(map(_shown, value))
        case _:
            return str(value)


def _number(value: float | None, sign: bool = False) -> str:
    """Four significant digits; what JSON could not hold (NaN and infinities) is None."""
    if value is None:
        return "not finite"
    return f"{value:+.4g}" if sign else f"{value:.4g}"


def _listed(values: Sequence[float | None], sign: bool = False) -> str:
    return " ".join(_number(value, sign) for value in values)
