"""What is said to people."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from training.messages import first_error, one_line, out_of_memory, suspects
from training.recipe import Recipe


def test_the_good_images_with_the_highest_scores_are_asked_about() -> None:
    scores = [(Path("good") / f"{number}.png", number / 4) for number in (3, 9, 1, 2, 5, 4)]
    assert suspects(scores) == "9.png 2.25, 5.png 1.25, 4.png 1, 3.png 0.75, 2.png 0.5: are these good?"


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("std::bad_alloc"),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("Failed to allocate memory for requested buffer of size 4096"),
        OSError(12, "Cannot allocate memory"),
        RuntimeError("could not create a primitive"),
    ],
    ids=str,
)
def test_too_little_memory_is_told_from_other_errors(error: Exception) -> None:
    assert out_of_memory(error)
    assert not out_of_memory(RuntimeError("could not create a primitive descriptor for a convolution"))


def test_errors_of_libraries_become_one_short_line() -> None:
    assert one_line(RuntimeError("no\n  such   layer\n")) == "no such layer"
    assert len(one_line(RuntimeError(300 * "x"))) == 200
    assert one_line(MemoryError()) == "MemoryError"


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ({"seed_": 1}, "seed_: Extra inputs are not permitted"),
        ({"height": 65}, "input size 65×256: both sides must be multiples of 32"),
    ],
)
def test_what_is_wrong_is_told_with_its_place_if_it_has_one(field: dict[str, int], message: str) -> None:
    with pytest.raises(ValidationError) as wrong:
        Recipe.model_validate(field)
    assert first_error(wrong.value) == message
