"""Files that one program writes and another reads say so when their fields change."""

from pydantic import BaseModel

from export.bundle.manifest import SCHEMA_VERSION, Manifest
from training.checkpoint import FORMAT, Checkpoint


def fields(model: type[BaseModel]) -> dict[str, str]:
    """The names of the fields of `model` and of all models in it."""
    schema = model.model_json_schema()
    models = {model.__name__: schema, **schema["$defs"]}
    return {
        name: " ".join(sorted(each["properties"])) for name, each in models.items() if "properties" in each
    }


def test_a_manifest_s_fields_are_those_of_its_schema_version() -> None:
    """Other programs refuse fields they don't know. If they change, raise SCHEMA_VERSION, so that they can
    say why, and repeat them here."""
    assert SCHEMA_VERSION == 1
    assert fields(Manifest) == {
        "Manifest": "engines files frame_ranges geometry golden golden_heatmaps min_area product provenance "
        "roi schema_version thresholds version",
        "EngineEntry": "batch_sizes file float32_convolutions guard_band heatmap_deviation id plan",
        "FrameRanges": "aspect brightness contrast sharpness",
        "Geometry": "filter height width",
        "GoldenFrame": "file kind raw_score source",
        "Plan": "compute_capability file flavour graph precision profile version",
        "Provenance": "backbone checkpoint created libraries recipe seed",
        "Range": "high low",
        "RegionOfInterest": "polygons share",
        "Scale": "median threshold",
        "Thresholds": "calibration_size image max_false_reject pixel promised",
    }


def test_a_checkpoint_s_fields_are_those_of_its_format() -> None:
    """A field that an older checkpoint lacks would have its default, as if it had been trained with it. If
    they change, raise FORMAT, and repeat them here."""
    assert FORMAT == 16
    assert fields(Checkpoint) == {
        "Checkpoint": "data_root directory format libraries product recipe rule same_part seed splits "
        "tensors_sha256",
        "ImageRecord": "frame_sha256 name",
        "Recipe": "backbone batch betas bfloat16 bounded epochs filter fusion fusion_width height image_term "
        "image_weight learning_rate memory min_steps name noise noise_limit own_shape position_weight "
        "pre_relu restoration_weight rule schedule segmentation_target segmentation_weight student_levels "
        "synthesis weight_decay width",
        "ScoreRule": "normalise refinement sigma top_fraction",
    }
