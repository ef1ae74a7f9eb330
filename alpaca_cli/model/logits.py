"""Whether two model folders are the same model: their logits on the same tokens.

Asked are fixed random tokens and real prompts in the model's own template. The models are loaded
one after the other: the memory of one is enough. A copy is computed as it is stored, and its
logits have to be equal bit for bit; after a conversion both are computed in float32, so that only
the weights make the difference, and that has a bound.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from alpaca_cli.core.errors import GateFailed
from alpaca_cli.core.template import ALPACA, PromptTemplate
from alpaca_cli.model.export import load_any, load_tokenizer
from alpaca_cli.model.tokenizer import encode_prompts

ROWS, LENGTH, SEED = 2, 48, 20230313
ASKED = (
    ("List three animals that live in the sea.", ""),
    ("Sort these numbers.", "4 1 9"),
)
# Largest relative difference, ||result - source|| / ||source||. A weight that is rounded moves by
# at most 2^-9 of itself in bfloat16, 2^-12 in float16, and layers add up what theirs moved: eight
# times that, and its growth with the square root of the layers, is room for any healthy model.
ROUNDING = {"F32": 0.0, "BF16": 2.0**-9, "F16": 2.0**-12}
MERGED = 1e-4


@dataclass(frozen=True, slots=True)
class LogitCheck:
    """How far the logits of two models are apart.

    Attributes:
        largest: largest difference of a logit.
        relative: norm of the differences over the norm of the source's logits.
        bound: what `relative` may be; 0: they have to be equal bit for bit.
        argmax: share of the positions at which the likeliest token is the same.
        positions: how many were compared.
    """

    largest: float
    relative: float
    bound: float
    argmax: float
    positions: int


def prompts(folder: Path, template: PromptTemplate | None) -> list[list[int]]:
    """Real prompts in a model's own template and tokenizer."""
    return encode_prompts(load_tokenizer(folder), template or ALPACA, ASKED)


def prompt_texts(folder: Path, template: PromptTemplate | None) -> dict[str, list[int]]:
    """Text -> ids of the same prompts; empty where a chat template makes them."""
    if template is None or template.chat_template:
        return {}
    texts = [template.prompt(*each) for each in ASKED]
    return dict(zip(texts, prompts(folder, template), strict=True))


def logits_of(
    folder: Path, asked: Sequence[Sequence[int]], *, as_stored: bool
) -> list[torch.Tensor]:
    """Logits (tokens, vocabulary) of fixed random tokens and of each prompt, in float32."""
    model = load_any(folder, "auto" if as_stored else torch.float32)
    config = model.config.get_text_config()
    context = getattr(config, "max_position_embeddings", None) or LENGTH
    generator = torch.Generator().manual_seed(SEED)
    drawn = torch.randint(config.vocab_size, (ROWS, min(LENGTH, context)), generator=generator)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device)
    found = []
    with torch.inference_mode():
        for ids in [*drawn.tolist(), *(list(each)[:context] for each in asked)]:
            given = torch.tensor([ids], device=device)
            found.append(model(input_ids=given, use_cache=False).logits[0].float().cpu())
    return found


def check_logits(
    source: Sequence[torch.Tensor],
    result: Sequence[torch.Tensor],
    *,
    bound: float,
    name: str,
) -> LogitCheck:
    """Compare what two models answered.

    Raises:
        GateFailed: they differ by more than the bound, or are not numbers.
    """
    one, other = torch.cat(list(source)), torch.cat(list(result))
    if one.shape != other.shape:
        raise GateFailed(f"{name}: its vocabulary is not the source's")
    if not torch.isfinite(other).all():
        raise GateFailed(f"{name}: the reloaded model's logits are not finite")
    difference = (one - other).double()
    check = LogitCheck(
        largest=float(difference.abs().max()),
        relative=float(difference.norm() / one.double().norm()),
        bound=bound,
        argmax=float((one.argmax(-1) == other.argmax(-1)).double().mean()),
        positions=len(one),
    )
    if not check.relative <= bound:
        raise GateFailed(
            f"{name}: the reloaded model is not the source: its logits differ by "
            f"{check.relative:.2g} of their size ({bound:.2g} is allowed), by {check.largest:.3g} "
            "at most",
            hint="nothing was left in its place; please report it",
        )
    return check


def bound_for(dtype: str, merged: bool, layers: int) -> float:
    """What the relative difference may be after rounding to a type; see ROUNDING."""
    return 8 * ROUNDING[dtype] * math.sqrt(2 * layers + 1) + (MERGED if merged else 0.0)
