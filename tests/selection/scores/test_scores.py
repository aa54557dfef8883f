from __future__ import annotations

import numpy as np
import pytest
import torch

from clipsift_common.errors import ClipsiftError
from selection.registry import FeatureBlock, register
from selection.scores import SCORES, get_score
from selection.scores.s_cliploss import s_cliploss


def block(num: int = 50, seed: int = 0) -> FeatureBlock:
    features = torch.nn.functional.normalize(torch.randn(2, num, 8, generator=torch.Generator().manual_seed(3)), dim=-1)
    return FeatureBlock(features[0], features[1], seed, {"quality": np.arange(num, dtype=np.float16)})


def test_every_module_is_registered() -> None:
    assert {"clip_score", "s_cliploss", "normsim", "vas", "random", "metadata_column"} <= set(SCORES)


def test_options_come_from_the_signature() -> None:
    assert get_score("s_cliploss").options == {
        "temperature": 0.01,
        "batch_size": 32768,
        "num_batches": 10,
        "short_last_batch": False,
        "bank_size": None,
    }


@pytest.mark.parametrize(
    ("score", "options", "words"),
    [
        ("s_cliploss", {"temperature": "abc"}, "score s_cliploss: temperature is a number above 0, got 'abc'"),
        ("s_cliploss", {"temperature": True}, "temperature is a number above 0, got True"),
        ("s_cliploss", {"num_batches": 2.5}, r"num_batches is a whole number of at least 1, got 2\.5"),
        ("s_cliploss", {"batch_size": "all"}, "batch_size is a whole number of at least 1 or null, got 'all'"),
        ("s_cliploss", {"short_last_batch": 1}, "short_last_batch is true or false, got 1"),
        ("normsim", {"target": 3}, "target is a word, got 3"),
        ("normsim", {"target": "x", "p": "two"}, "p is a number of at least 1 or inf, got 'two'"),
        ("vas", {"kind": "audio"}, "kind is visual or text or cross, got 'audio'"),
        ("s_cliploss", {"temperature": -0.01}, r"temperature is a number above 0, got -0\.01"),
        ("s_cliploss", {"bank_size": 1}, "bank_size is a whole number of at least 2 or null, got 1"),
        ("normsim", {"target": "x", "p": 0.5}, r"p is a number of at least 1 or inf, got 0\.5"),
        ("vas", {"kind": "text", "target": "x"}, "kind text takes no target"),
        ("datacomp_basic", {"language": True}, "language is a word or off, got True"),
    ],
)
def test_an_option_of_another_type_is_refused(score: str, options: dict[str, object], words: str) -> None:
    with pytest.raises(ClipsiftError, match=words):
        get_score(score).check(options)


def test_options_of_their_types_are_taken() -> None:
    get_score("s_cliploss").check({"temperature": 1, "batch_size": None, "short_last_batch": True})
    get_score("normsim").check({"target": "x", "p": "inf"})
    get_score("normsim").check({"target": "x", "p": float("inf")})
    get_score("datacomp_basic").check({"language": False})


def test_unknown_names_and_options_are_named() -> None:
    with pytest.raises(ClipsiftError, match=r"score clipscore is unknown \(known: .*clip_score"):
        get_score("clipscore")
    with pytest.raises(ClipsiftError, match=r"score s_cliploss: no option tau \(it has: temperature"):
        get_score("s_cliploss")(block(), tau=0.1)
    with pytest.raises(ClipsiftError, match="score normsim: option target is missing"):
        get_score("normsim")(block())
    with pytest.raises(ClipsiftError, match="target imagenet1k"):
        get_score("normsim")(block(), target="imagenet1k")


def test_a_new_score_is_one_function() -> None:
    @register("first_dimension", needs=("image",))
    def column(block: FeatureBlock, sign: float = 1.0) -> torch.Tensor:
        return block.image[:, 0].double() * sign

    try:
        found = get_score("first_dimension")(block(), sign=-1.0)
        assert found.dtype == torch.float32
        assert torch.equal(found, -block().image[:, 0])
        with pytest.raises(ValueError, match="registered twice"):
            register("first_dimension")(column)
    finally:
        del SCORES["first_dimension"]


def test_s_cliploss_column_uses_the_block_seed() -> None:
    options = {"batch_size": 20, "num_batches": 2, "temperature": 0.07}
    found = get_score("s_cliploss")(block(seed=4), **options)
    samples = block()
    assert torch.equal(found, s_cliploss(samples.image, samples.text, 0.07, 20, 2, seed=4))
    assert not torch.equal(found, get_score("s_cliploss")(block(seed=5), **options))


def test_random_is_uniform_and_seeded() -> None:
    values = get_score("random")(block(20_000, seed=1))
    assert values.dtype == torch.float32
    assert 0 <= values.min() < 0.01
    assert 0.99 < values.max() < 1
    assert abs(values.mean().item() - 0.5) < 0.01
    assert torch.equal(values, get_score("random")(block(20_000, seed=1)))
    assert not torch.equal(values, get_score("random")(block(20_000, seed=2)))


def test_random_needs_no_features() -> None:
    empty = torch.empty(7, 0)
    assert get_score("random").needs == ()
    assert len(get_score("random")(FeatureBlock(empty, empty))) == 7


def test_metadata_column() -> None:
    found = get_score("metadata_column")(block(4), column="quality")
    assert found.tolist() == [0, 1, 2, 3]
    with pytest.raises(ClipsiftError, match=r"no column nsfw \(it has: quality\)"):
        get_score("metadata_column")(block(4), column="nsfw")
    words = FeatureBlock(torch.empty(1, 0), torch.empty(1, 0), columns={"url": np.array(["a"])})
    with pytest.raises(ClipsiftError, match="url: holds <U1, not numbers"):
        get_score("metadata_column")(words, column="url")
