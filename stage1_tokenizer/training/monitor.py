"""Warns when a run goes wrong, with what to try, and says when it is over, from the values that are logged anyway.

It reads the lines of metrics.jsonl (means over run.log_every steps, already on the CPU) on rank 0. Nothing is saved: a
resumed run learns the recent levels anew.
"""

import math
import re
from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Mapping
from statistics import median
from typing import NamedTuple, Self

from stage1_tokenizer.config.monitor import MonitorConfig
from stage1_tokenizer.config.training import TokenizerTrainConfig
from stage1_tokenizer.tokenizer.model import Tokenizer

CODES = {"codes/perplexity": "perplexity", "codes/used": "codes in use"}
"""Metrics that fall when a codebook collapses, and their names in the log."""

WATCHED = (
    *(f"loss/{name}" for name in ("rec", "perceptual", "waveform", "mel", "stft", "feature_matching")),
    "optimizer/gradient_norm",
    "optimizer/discriminator_gradient_norm",
)
"""Metrics whose sudden growth is a divergence."""

ADVICE = {
    "codebook": "try model.quantizer.revive_after=1000, learning=moving_average, or l2_normalise with a small "
    "code_dim; with an entropy term, a larger entropy_weight",
    "discriminator_won": "try loss.adversarial.lecam=0.001, penalty=10 or a lower discriminator_learning_rate",
    "discriminator_lost": "try a higher discriminator_learning_rate, more loss.adversarial.channels, or less penalty",
    "adaptive_weight": "the adversarial gradient at the last layer has almost vanished: check whether the "
    "discriminator has won, or lower loss.adversarial.adaptive_limit",
    "divergence": "try a lower learning rate, a longer warm-up or a smaller optimizer.clip; if the discriminator has "
    "just started, a longer loss.adversarial.ramp",
}
"""What to try, by problem."""


class Sign(NamedTuple):
    """What one line says about one problem."""

    bad: bool
    """Whether the problem is present."""
    over: bool
    """Whether it is clearly over."""
    what: str


class Monitor:
    """Takes the lines in order; what `look` returns depends on them alone."""

    def __init__(self, config: MonitorConfig, *, most: Mapping[str, float], limits: Mapping[str, float]):
        """`most` are the largest possible values of CODES, by name.

        `limits` are the largest adaptive weights, by the suffix of the discriminator's metrics.
        """
        self.config = config
        self.most = most
        self.limits = limits
        self._levels: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=config.window))
        self._lines: Counter[str] = Counter()
        self._active: set[str] = set()

    @classmethod
    def of(cls, config: TokenizerTrainConfig, tokenizer: Tokenizer) -> Self:
        """The monitor of a run."""
        most: dict[str, float] = {}
        if tokenizer.codebook_size:
            smallest = config.data.decoding[0]["transform"]
            codes = math.prod(tokenizer.codes_shape(smallest.sizes)) // tokenizer.codebooks
            perplexity = min(tokenizer.codebook_size, codes * config.data.batch_size)
            most = {"codes/perplexity": perplexity, "codes/used": perplexity * tokenizer.codebooks}
        limits = {
            suffix: adversarial.weight * adversarial.adaptive_limit
            for suffix, adversarial in config.loss.adversaries.items()
            if adversarial.adaptive
        }
        return cls(config.monitor, most=most, limits=limits)

    def look(self, values: Mapping[str, float]) -> dict[str, str]:
        """The problems that begin or end with this line: a sentence for each, by `monitor/NAME`."""
        if not self.config.window:
            return {}
        known = {name: value for name, value in values.items() if math.isfinite(value)}
        events = {}
        for name, sign in self._signs(known):
            if name in self._active and sign.over:
                self._active.remove(name)
                events[f"monitor/{name}"] = f"over: {sign.what}"
            elif name not in self._active and sign.bad:
                self._active.add(name)
                events[f"monitor/{name}"] = f"{sign.what}: {ADVICE[name.split('/')[0]]}"
        return events

    def _signs(self, values: Mapping[str, float]) -> Iterator[tuple[str, Sign]]:
        if any(name in values for name in CODES):
            yield "codebook", self._codebook(values)
        for suffix in [name.removeprefix("gan/accuracy") for name in values if name.startswith("gan/accuracy")]:
            if {f"gan/logits_real{suffix}", f"gan/logits_fake{suffix}"} <= values.keys():
                gap = values[f"gan/logits_real{suffix}"] - values[f"gan/logits_fake{suffix}"]
                yield from self._discriminator(values[f"gan/accuracy{suffix}"], gap, suffix.replace("_", "/"))
        for suffix, limit in self.limits.items():
            if f"gan/weight{suffix}" in values:
                share, name = values[f"gan/weight{suffix}"] / limit, "adaptive_weight" + suffix.replace("_", "/")
                bad = self._lasts(name, share > 0.99)
                yield name, Sign(bad, share < 0.5, f"the adaptive weight is {share:.0%} of its largest value")
        for name in values:
            if re.sub(r"_\d+$", "", name) in WATCHED:
                yield f"divergence/{name}", self._growth(name, values[name])

    def _lasts(self, name: str, now: bool) -> bool:
        """Whether something has been true for `patience` lines."""
        self._lines[name] = self._lines[name] + 1 if now else 0
        return self._lines[name] >= self.config.patience

    def _level(self, name: str, value: float, keep: bool) -> float | None:
        """The recent level without this value, None while it is unknown; with `keep` the value then counts for it."""
        past = self._levels[name]
        known = median(past) if len(past) >= max(1, self.config.window // 5) else None
        if keep:
            past.append(value)
        return known

    def _codebook(self, values: Mapping[str, float]) -> Sign:
        """A fall is measured against the level before it, which stays the same while the fall lasts."""
        bad, over, parts = False, True, []
        for name, title in CODES.items():
            if name not in values:
                continue
            value, least = values[name], self.config.least_use * self.most.get(name, 0)
            level = self._level(name, value, keep="codebook" not in self._active)
            floor = self.config.collapse * level if level else 0.0
            bad |= self._lasts(name, value < least) or value < floor
            over &= value >= 2 * max(least, floor)
            possible = f" of {self.most[name]:.4g} possible" if name in self.most else ""
            before = f", recently {level:.4g}" if level else ""
            parts.append(f"{title} {value:.4g}{possible}{before}")
        return Sign(bad, over, "codebook: " + "; ".join(parts))

    def _discriminator(self, accuracy: float, gap: float, which: str) -> Iterator[tuple[str, Sign]]:
        config, what = self.config, f"accuracy {accuracy:.3f}, logits {gap:.3g} apart"
        won = self._lasts(f"discriminator_won{which}", accuracy >= config.won)
        over = accuracy < config.won - 0.05
        yield f"discriminator_won{which}", Sign(won, over, f"the discriminator's lead: {what}")
        distance = max(abs(accuracy - 0.5), abs(gap))
        lost = self._lasts(f"discriminator_lost{which}", distance <= config.lost)
        over = distance > 2 * config.lost
        yield f"discriminator_lost{which}", Sign(lost, over, f"the discriminator's guesses: {what}")

    def _growth(self, name: str, value: float) -> Sign:
        """The level keeps following, so a lasting new level is eventually no divergence any more."""
        level = self._level(name, value, keep=True)
        if not level or level < 0:
            return Sign(False, False, "")
        times = value / level
        return Sign(
            times > self.config.spike, times < self.config.spike / 3, f"{name} {value:.4g}, recently {level:.4g}"
        )
