"""Sources of randomness for noise and sampling: the operating system's for devices, a seeded one for tests.

`SystemNoise` draws AES-256-CTR bits under a key from ``os.urandom``. A textbook sampler of floating-point
Gaussians leaves gaps among the reachable values that tell an observer what was added (Mironov 2012; Jin et
al., arXiv:2112.05307). As Opacus does in its secure mode, each value is the sum of 2n = 4 independent
Gaussians over sqrt(2n) (Holohan and Braghin, arXiv:2107.10138, section 5.1), so that many combinations of
draws lead to one output. This is hardening, not a proof; the proof needs noise on integers.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any, Final, NoReturn

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SUMMED: Final = 4
_ENTRIES: Final = np.arange(4096) * (2.0 * np.pi / 4096)
_COSINES, _SINES = np.cos(_ENTRIES), np.sin(_ENTRIES)

_CHUNK: Final = 1 << 13
"""Values made at a time: bounds the memory that a draw for a large model takes besides its result."""


_FORKS = [0]
"""How often this process is a child of one that used noise: not its number, which another namespace may repeat."""


def _forked() -> None:
    _FORKS[0] += 1


os.register_at_fork(after_in_child=_forked)


def _on_the_circle(words: NDArray[np.uint64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Cosine and sine of 2 pi u, u the highest 53 bits of each word, within 1e-15.

    Twelve bits choose an entry of a table, the other 41 turn it by less than 2 pi / 4096: short series are exact
    there. All of `SystemNoise.normal` takes half the time that it takes with numpy's cosine and sine.
    """
    entry = (words >> np.uint64(52)).view(np.int64)
    turn = ((words >> np.uint64(11)) & np.uint64((1 << 41) - 1)).astype(np.float64)
    turn *= 2.0 * np.pi * 2.0**-53
    square = turn * turn
    sine = square * (-1.0 / 6.0)
    sine += 1.0
    sine *= turn
    cosine = square * (1.0 / 24.0)
    cosine -= 0.5
    cosine *= square  # what it falls short of 1
    table_cosine, table_sine = _COSINES.take(entry), _SINES.take(entry)
    first = table_cosine * cosine
    first -= table_sine * sine
    first += table_cosine
    second = table_sine * cosine
    second += table_cosine * sine
    second += table_sine
    return first, second


class SystemNoise:
    """Randomness that nobody else can predict or repeat. Safe to share between threads and across fork.

    ``normal`` is Box-Muller on 64-bit uniforms (tail cut at 9.4 standard deviations, mass below 2**-63 a draw),
    hardened as the module says; ``uniform`` has 53 bits.
    """

    __slots__ = ("_lock", "_process", "_stream")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rekey()

    def __repr__(self) -> str:
        return "SystemNoise()"

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError(f"{self!r} cannot be copied or pickled: two copies would give the same noise")

    def normal(self, size: int) -> NDArray[np.float64]:
        """Standard normal draws, (size,) float64."""
        out = np.empty(size)
        for start in range(0, size, _CHUNK):
            part = out[start : start + _CHUNK]
            part[:] = self._normal(part.size)
        return out

    def uniform(self, size: int) -> NDArray[np.float64]:
        """Uniform draws from [0, 1), multiples of 2**-53, (size,) float64."""
        return (self.words(size) >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def words(self, size: int) -> NDArray[np.uint64]:
        """Uniform 64-bit words, (size,) uint64, not writable."""
        with self._lock:
            if self._process != _FORKS[0]:  # after a fork, parent and child would share one keystream
                self._rekey()
            return np.frombuffer(self._stream.update(bytes(8 * size)), dtype=np.uint64)

    def _rekey(self) -> None:
        cipher = Cipher(algorithms.AES256(os.urandom(32)), modes.CTR(os.urandom(16)))
        self._stream: CipherContext = cipher.encryptor()
        self._process = _FORKS[0]

    def _normal(self, size: int) -> NDArray[np.float64]:
        half = (size + 1) // 2
        words = self.words(2 * _SUMMED * half).reshape(2, _SUMMED, half)
        # (u + 1) / 2**64 lies in (0, 1]; a 64-bit integer as a float keeps 53 significant bits near zero too.
        radius = np.sqrt(-2.0 * np.log((words[0].astype(np.float64) + 1.0) * 2.0**-64))
        cosines, sines = _on_the_circle(words[1])
        cosines *= radius
        sines *= radius
        first = cosines.sum(axis=0)
        # Each row of sines is shifted by its index, so that no two outputs come from the same four pairs.
        second = np.sum([np.roll(row, shift) for shift, row in enumerate(sines)], axis=0)
        both: NDArray[np.float64] = np.concatenate([first, second])[:size]
        return both / _SUMMED**0.5


class SeededNoise:
    """Repeatable randomness (numpy's PCG64) for tests alone: no plan, file or command reaches it."""

    __slots__ = ("_generator",)

    def __init__(self, seed: int) -> None:
        self._generator = np.random.Generator(np.random.PCG64(seed))

    def __repr__(self) -> str:
        return "SeededNoise()"

    def normal(self, size: int) -> NDArray[np.float64]:
        """Standard normal draws, (size,) float64."""
        return self._generator.standard_normal(size)

    def uniform(self, size: int) -> NDArray[np.float64]:
        """Uniform draws from [0, 1), (size,) float64."""
        return self._generator.random(size)

    def words(self, size: int) -> NDArray[np.uint64]:
        """Uniform 64-bit words, (size,) uint64."""
        return self._generator.integers(1 << 64, size=size, dtype=np.uint64)
