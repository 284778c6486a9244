"""AdamW and the one-cycle cosine schedule of the recipes (Tables S.1 and S.2)."""

from __future__ import annotations

import math
from collections.abc import Iterable

from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import OneCycleLR

from gcbench.recipe.schema import Optimizer, Schedule


def build_optimizer(parameters: Iterable[nn.Parameter], settings: Optimizer) -> AdamW:
    """AdamW over the parameters that get a gradient."""
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    return AdamW(trained, lr=settings.lr, betas=settings.betas, weight_decay=settings.weight_decay, fused=True)


def build_scheduler(optimizer: AdamW, settings: Schedule, total_steps: int) -> OneCycleLR:
    """One cycle over `total_steps`, stepped once per optimiser step.

    The rate rises by a cosine from lr / div_factor to lr during the first `warmup` share of the steps and falls by a
    cosine to lr / div_factor / final_div_factor. The betas stay as the recipe says (torch's default would cycle them).
    """
    warmup = settings.warmup
    if math.isclose(warmup * total_steps, 1) or warmup == 1:  # a phase of no length, by which torch would divide
        warmup *= 1 - 1e-6
    return OneCycleLR(
        optimizer,
        max_lr=[group["lr"] for group in optimizer.param_groups],
        total_steps=total_steps,
        pct_start=warmup,
        anneal_strategy="cos",
        cycle_momentum=False,
        div_factor=settings.div_factor,
        final_div_factor=settings.final_div_factor,
    )
