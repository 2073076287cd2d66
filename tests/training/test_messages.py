"""What is said to people."""

from pathlib import Path

from training.messages import suspects


def test_the_good_images_with_the_highest_scores_are_asked_about() -> None:
    scores = [(Path("good") / f"{number}.png", number / 4) for number in (3, 9, 1, 2, 5, 4)]
    assert suspects(scores) == "9.png 2.25, 5.png 1.25, 4.png 1, 3.png 0.75, 2.png 0.5: are these good?"
