"""Every attack on every protection, and what comes of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

from fedsus.learning.parameters import flatten
from fedsus_simulations.demo.attacks import images, inversion
from fedsus_simulations.demo.attacks.matching import matching
from fedsus_simulations.demo.attacks.membership import FALSE_ALARMS, Games, Scores, Success, bound, play
from fedsus_simulations.demo.attacks.seen import DELTA, Protection, Round

if TYPE_CHECKING:
    from collections.abc import Callable

    from fedsus.types import Vector
    from fedsus_simulations.demo.attacks.images import Images, Pool

Row = dict[str, Any]
SEED: Final = 7
EACH: Final = 8
"""Examples of one client."""

_DELTAS: Final = (DELTA, 1e-4, 1e-3, 0.01, 0.03, 0.1, 0.2)
_SHARES: Final = "noise in shares, sum over {} clients"


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is attacked.

    Attributes:
        clients: in the large sum; the small one has a tenth.
        inverted, judged: hidden units of the network whose first layer is inverted, and of the one that tells members.
        games: for each row of the membership table.
        rounds: of the row with several.
        searched: images that are searched for one by one.
        steps: of a search.
    """

    clients: int = 100
    inverted: int = 512
    judged: int = 16
    games: Games = Games(20, 20)  # noqa: RUF009
    rounds: int = 3
    searched: int = 3
    steps: int = 400

    @property
    def few(self) -> int:
        """Clients in the small sum."""
        return max(2, self.clients // 10)


QUICK: Final = Sizes(clients=8, inverted=64, judged=4, games=Games(2, 4, 60), rounds=2, searched=1, steps=10)


@dataclass(frozen=True, slots=True)
class Seen:
    """What the inversion's attacker sees in one row."""

    name: str
    protection: Protection
    clients: int
    apart: bool = False
    """The difference of two sums, with and without the first client."""


@dataclass(frozen=True, slots=True)
class Gallery:
    """The first client's images, and for each row and model what came nearest to them: (8, 28, 28) each."""

    originals: Images
    rows: dict[str, tuple[Images, Images]]


def protections(sizes: Sizes) -> list[Seen]:
    """The rows of the inversion's table."""
    many, few = sizes.clients, sizes.few
    local = Protection(many, EACH, "example", "local", 8.0)
    shares = Protection(many, EACH, "example", "distributed", 8.0)
    return [
        Seen("one client's update, in clear", Protection(many, EACH), 1),
        Seen(f"sum over {few} clients", Protection(few, EACH), few),
        Seen(f"sum over {many} clients", Protection(many, EACH), many),
        Seen(f"two sums, over {many} clients and without one", Protection(many, EACH), many, apart=True),
        Seen("one client's update, DP-SGD on the device", local, 1),
        Seen(f"{_SHARES.format(many)}, example unit", shares, many),
        Seen(f"{_SHARES.format(many)}, client unit", replace(shares, unit="client", clip=0.1), many),
    ]


def inversions(pool: Pool, sizes: Sizes, say: Callable[[str], None]) -> tuple[list[Row], Gallery]:
    """The first layer inverted, for a fresh model and for one that the server chose."""
    task, width = images.task("mlp", sizes.inverted), sizes.inverted
    public = images.scaled(pool.public[0])
    rows = np.random.default_rng(SEED).permutation(len(pool.private[0]))[: sizes.clients * EACH]
    shards = pool.shards(rows, EACH)
    models = {"fresh": flatten(task.model(SEED)), "chosen": inversion.inviting(public, width)}
    first = images.together(shards[:1])
    found: list[Row] = []
    gallery = Gallery(first, {})
    for seen in protections(sizes):
        round_, row, near = Round(task, seen.protection, SEED), {"seen": seen.name, **_spent(seen.protection)}, []
        originals = first if seen.apart else images.together(shards[: seen.clients])
        for name, model in models.items():
            total, clients = round_.total(model, shards[: seen.clients]), seen.clients
            if seen.apart:
                total, clients = round_.without(total, round_.total(model, shards[1 : seen.clients])), 1
            given = inversion.first_layer(round_.update(total, clients), width, chosen=name == "chosen")
            recovery, nearest = inversion.compared(originals, given)
            row[name] = asdict(recovery)
            near.append(given[nearest[:EACH]])
        gallery.rows[seen.name] = (near[0], near[1])
        found.append(row)
        say(f"inverted: {seen.name}")
    control = asdict(inversion.compared(images.together(shards), public[:width])[0])
    name = f"nothing: {min(width, len(public))} other images"
    return [*found, {"seen": name, **_spent(None), "fresh": control, "chosen": control}], gallery


def searches(pool: Pool, sizes: Sizes, say: Callable[[str], None]) -> list[Row]:
    """Images of a convolutional network's update, searched for."""
    task = images.task("cnn", 16)
    model = flatten(task.model(SEED))
    rows = np.random.default_rng(SEED).permutation(len(pool.private[0]))[:10]
    shards = pool.shards(rows, 1)
    local = Protection(10, 1, "example", "local", 8.0)
    found = []
    for name, protection in (
        ("one client's update, in clear", Protection(10, 1)),
        ("one client's update, DP-SGD on the device", local),
    ):
        round_ = Round(task, protection, SEED)
        updates = [round_.sees(model, [shard]) for shard in shards[: sizes.searched]]
        given = [matching(task, model, update, None, sizes.steps) for update in updates]
        pairs = [
            inversion.compared(images.together([shard]), image)[0]
            for shard, image in zip(shards, given, strict=False)  # of the first
        ]
        found.append({"seen": name, **_spent(protection), **_middle(pairs)})
        say(f"searched: {name}")
    update = Round(task, Protection(10, 1), SEED).sees(model, shards)
    labels = torch.cat([shard.train[1] for shard in shards])
    given_together = matching(task, model, update, labels, 2 * sizes.steps, smooth=1e-2)
    recovery, _ = inversion.compared(images.together(shards), given_together)
    found.insert(1, {"seen": "sum over 10 clients, labels known", **_spent(None), **asdict(recovery)})
    say("searched: a sum")
    return found


def memberships(pool: Pool, sizes: Sizes, say: Callable[[str], None]) -> tuple[list[Row], dict[str, Scores]]:
    """Members told from others."""
    task, many, few = images.task("mlp", sizes.judged), sizes.clients, sizes.few
    models = [flatten(task.model(SEED + i)) for i in range(sizes.rounds)]
    clear, local = Protection(many, EACH), Protection(many, EACH, "example", "local", 8.0, clip=0.5)
    shares, summed = replace(local, placement="distributed"), _SHARES.format(many)
    asked: list[tuple[str, Protection, int, list[Vector]]] = [
        ("one client's update, in clear", clear, 1, models[:1]),
        (f"sum over {few} clients", Protection(few, EACH), few, models[:1]),
        (f"sum over {many} clients", clear, many, models[:1]),
        (f"sum over {many} clients, {sizes.rounds} rounds", clear, many, models),
        ("one client's update, DP-SGD on the device", local, 1, models[:1]),
        ("one client's update, DP-SGD on the device", replace(local, epsilon=1.0), 1, models[:1]),
        (summed, shares, many, models[:1]),
        (summed, replace(shares, epsilon=1.0), many, models[:1]),
    ]
    found, scores = [], {}
    for name, protection, clients, sent in asked:
        round_ = Round(task, protection, SEED)
        played = play(round_, sent, pool, clients, sizes.games, SEED)
        row = {"seen": name, **_spent(protection), **asdict(Success.of(played)), "bound": None, "bound_delta": None}
        if protection.epsilon is not None:
            losses = [(round_.epsilon(delta), delta) for delta in _DELTAS]
            row |= {"bound": round(bound(FALSE_ALARMS, losses), 4)}
            row |= {"bound_delta": round(bound(FALSE_ALARMS, losses[:1]), 4)}
        found.append(row)
        scores[named(row)] = played
        say(f"told members: {named(row)}")
    return found, scores


def named(row: Row) -> str:
    """A row's name with its epsilon."""
    return f"{row['seen']}, epsilon {row['epsilon']:g}" if row["epsilon"] else str(row["seen"])


def _spent(protection: Protection | None) -> Row:
    return {"epsilon": None if protection is None else protection.epsilon}


def _middle(pairs: list[inversion.Recovery]) -> Row:
    """One recovery of several single images."""
    return {
        "images": len(pairs),
        "recovered": sum(pair.recovered for pair in pairs),
        "decibels": round(float(np.median([pair.decibels for pair in pairs])), 3),
        "similarity": round(float(np.median([pair.similarity for pair in pairs])), 3),
    }
