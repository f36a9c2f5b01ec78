"""Perturbations of texts: tokens that are missing, letters that changed places."""

import dataclasses
import itertools
import numbers
import re
import unicodedata
from collections.abc import Iterator, Sequence

import numpy as np

from keras_lgg import checks
from keras_lgg.graphs.pooling import MASK_INPUTS
from keras_lgg.robustness.inputs import kind_of
from keras_lgg.robustness.perturbations import DataPerturbation, sample_rng, store_numbers
from keras_lgg.types import Samples


@dataclasses.dataclass(frozen=True, kw_only=True)
class DroppedTokens(DataPerturbation):
    """Tokens, or words, that are missing.

    Each token is dropped independently, with the probability of the rate; the draws for a text do
    not depend on how far it is padded. Either another token takes its place, or the rest moves up;
    one token stays if all would go.

    It takes texts, whose words are what stands between spaces, or token ids: integers of shape
    ``(n, T)``, or a dict or list of inputs with such an array in it. Padding is what a
    ``padding_mask`` or ``attention_mask`` of the dict says, else the ids equal to ``padding``, and
    it stays. Arrays of the shape of the ids (masks, segments) move up with them, and end in zeros.

    Args:
        rates: Probabilities, from 0 to 1.
        replacement: What takes the place of a token: an id, such as that of the mask token, or, for
            texts, a word. None: the rest moves up.
        padding: The id of padding.
        keep: Ids (for texts: words) that are never dropped, such as those of the start and the end.
        key: Where the ids are: a key of the dict, or an index into the list. The masks of
            ``"decoder_token_ids"`` are called ``"decoder_padding_mask"``.

    Its name is "dropped tokens"; its severities are the rates.

    Raises:
        ValueError: If an argument is out of its range; from `evaluate`, if there are no ids under
            the key, or a word is given for ids.

    Example:
        >>> import numpy as np
        >>> from keras_lgg import robustness
        >>> ids = np.array([[5, 6, 7, 8, 9, 0, 0]])  # two of padding
        >>> for replacement in (None, 1):
        ...     dropped = robustness.DroppedTokens(rates=(0.25,), replacement=replacement)
        ...     print(*[x.tolist() for x, _ in dropped.data(ids, np.array([0]), seed=0)])
        [[5, 6, 8, 9, 0, 0, 0]]
        [[5, 6, 1, 8, 9, 0, 0]]
    """

    rates: Sequence[float] = (0.1, 0.25, 0.5)
    replacement: int | str | None = None
    padding: int = 0
    keep: Sequence[int | str] = ()
    key: str | int = "token_ids"

    takes = ("ids", "texts", "several")

    def __post_init__(self) -> None:
        store_numbers(self, "rates", _is_rate, "numbers from 0 to 1")
        if self.replacement is not None and not _is_token(self.replacement):
            raise checks.invalid(
                "replacement", "an id of at least 0, a word or None", repr(self.replacement)
            )
        if not _is_id(self.padding):
            raise checks.invalid("padding", "an id of at least 0", repr(self.padding))
        keep = (self.keep,) if isinstance(self.keep, str | int) else tuple(self.keep)
        if not all(map(_is_token, keep)):
            raise checks.invalid("keep", "ids of at least 0, or words", repr(self.keep))
        object.__setattr__(self, "keep", keep)
        if not isinstance(self.key, str) and not _is_id(self.key):
            raise checks.invalid("key", "a key of a dict, or an index of a list", repr(self.key))

    name = "dropped tokens"

    @property
    def severities(self) -> Sequence[float]:
        return self.rates

    def data(
        self, inputs: Samples, labels: np.ndarray, *, seed: int
    ) -> Iterator[tuple[Samples, np.ndarray]]:
        kind = kind_of(inputs)
        self._check_tokens(str if kind == "texts" else int)
        drop = {"texts": self._from_texts, "ids": self._from_ids, "several": self._from_several}
        for rate in self.rates:
            rngs = (sample_rng(seed, self.name, rate, i) for i in range(len(labels)))
            yield drop[kind](inputs, rate, rngs), labels

    def _check_tokens(self, kind):
        given = [("replacement", self.replacement), *(("keep", token) for token in self.keep)]
        for argument, token in given:
            if token is not None and isinstance(token, str) != (kind is str):
                expected = "words, as the data are texts" if kind is str else "ids, like the data"
                raise checks.invalid(argument, expected, repr(token))

    def _from_texts(self, texts, rate, rngs):
        dropped = texts.copy()
        for i, rng in zip(range(len(texts)), rngs, strict=True):
            words = np.array(texts[i].split(), object)
            gone = self._draw(rng, np.ones(len(words), bool), words, rate)
            if gone.any():
                words[gone] = self.replacement
                dropped[i] = " ".join(word for word in words if word is not None)
        return dropped

    def _from_ids(self, ids, rate, rngs):
        return self._without([ids], ids, ids != self.padding, rate, rngs)[0]

    def _from_several(self, inputs, rate, rngs):
        ids = self._ids_of(inputs)
        names = list(inputs) if isinstance(inputs, dict) else range(len(inputs))
        along = [name for name in names if inputs[name].shape == ids.shape]
        along.sort(key=lambda name: name != self.key)  # the ids first
        is_token = self._is_token(inputs, ids)
        moved = self._without([inputs[name] for name in along], ids, is_token, rate, rngs)
        changed = inputs.copy()
        for name, array in zip(along, moved, strict=True):
            changed[name] = array
        return changed

    def _without(self, arrays, ids, is_token, rate, rngs):
        """The arrays, of which the first holds the ids, without the tokens that are drawn."""
        changed = [array.copy() for array in arrays]
        for i, rng in zip(range(len(ids)), rngs, strict=True):
            gone = self._draw(rng, is_token[i], ids[i], rate)
            if self.replacement is not None:
                changed[0][i, gone] = self.replacement
                continue
            places, kept = np.flatnonzero(is_token[i]), np.flatnonzero(is_token[i] & ~gone)
            is_padded_first = len(places) > 0 and places[0] > 0
            left = places[len(places) - len(kept) :] if is_padded_first else places[: len(kept)]
            for array, before in zip(changed, arrays, strict=True):
                array[i, places] = self.padding if array is changed[0] else 0
                array[i, left] = before[i, kept]
        return changed

    def _draw(self, rng, is_token, tokens, rate):
        """Which tokens of one text are dropped."""
        can_go = is_token & ~np.isin(tokens, np.array(self.keep, tokens.dtype))
        draws = rng.random(np.sum(can_go))
        gone = np.zeros(len(tokens), bool)
        gone[can_go] = draws < rate
        if self.replacement is None and len(draws) and np.array_equal(gone, is_token):
            gone[np.flatnonzero(can_go)[np.argmax(draws)]] = False
        return gone

    def _ids_of(self, inputs):
        is_dict = isinstance(inputs, dict)
        keys = list(inputs) if is_dict else list(range(len(inputs)))
        if self.key not in keys:
            raise checks.invalid("key", f"one of {keys}, where the token ids are", repr(self.key))
        ids = inputs[self.key]
        if ids.ndim != 2 or ids.dtype.kind not in "iu":
            received = f"{self.key!r}, an array of {ids.dtype} of shape {ids.shape}"
            raise checks.invalid("key", "that of integers of shape (n, T)", received)
        return ids

    def _is_token(self, inputs, ids):
        prefix = re.sub("(token|input)_ids$", "", str(self.key))
        for mask in (prefix + name for name in MASK_INPUTS):
            if isinstance(inputs, dict) and mask in inputs and inputs[mask].shape == ids.shape:
                return inputs[mask] != 0
        return ids != self.padding


@dataclasses.dataclass(frozen=True, kw_only=True)
class Typos(DataPerturbation):
    """Words in which two neighbouring letters have swapped places.

    Each word, which is what stands between spaces, gets one such typo with the probability of the
    rate. Diacritics stay with their letter; a word without two different letters side by side stays
    as it is.

    It takes texts; give `evaluate` the ``tokenizer`` that stands between them and the model.

    Args:
        rates: Probabilities, from 0 to 1.

    Its name is "typos"; its severities are the rates.

    Raises:
        ValueError: Unless ``rates`` holds different numbers from 0 to 1.

    Example:
        >>> import numpy as np
        >>> from keras_lgg import robustness
        >>> texts = np.array(["what is a graph?"], object)
        >>> [x[0] for x, _ in robustness.Typos(rates=(0, 1)).data(texts, np.array([0]), seed=0)]
        ['what is a graph?', 'whta si a rgaph?']

    Reference: Belinkov and Bisk, "Synthetic and natural noise both break neural machine
    translation", ICLR 2018, https://arxiv.org/abs/1711.02173 (its "swap")
    """

    rates: Sequence[float] = (0.1, 0.25, 0.5)

    takes = ("texts",)

    def __post_init__(self) -> None:
        store_numbers(self, "rates", _is_rate, "numbers from 0 to 1")

    name = "typos"

    @property
    def severities(self) -> Sequence[float]:
        return self.rates

    def data(
        self, inputs: np.ndarray, labels: np.ndarray, *, seed: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for rate in self.rates:
            changed = inputs.copy()
            for i, text in enumerate(inputs):
                rng = sample_rng(seed, self.name, rate, i)
                parts = re.split(r"(\S+)", text)  # words and, at even places, what is between
                parts[1::2] = [_typo(word, rate, rng) for word in parts[1::2]]
                changed[i] = "".join(parts)
            yield changed, labels


def _typo(word, rate, rng):
    draw, place = rng.random(2)
    letters = _letters(word)
    swaps = [
        i
        for i, (a, b) in enumerate(itertools.pairwise(letters))
        if a != b and a[0].isalpha() and b[0].isalpha()
    ]
    if draw >= rate or not swaps:
        return word
    i = swaps[int(place * len(swaps))]
    letters[i : i + 2] = letters[i + 1], letters[i]
    return "".join(letters)


def _letters(word):
    """The characters of a word, each with the marks that belong to it."""
    letters = []
    for character in word:
        if letters and unicodedata.category(character).startswith("M"):
            letters[-1] += character
        else:
            letters.append(character)
    return letters


def _is_rate(rate):
    return 0 <= rate <= 1


def _is_id(token):
    return isinstance(token, numbers.Integral) and not isinstance(token, bool) and token >= 0


def _is_token(token):
    return _is_id(token) or (isinstance(token, str) and bool(token.strip()))
