"""The network: shapes, widths asked of the backbone, nothing computed that is not used."""

import pytest
import torch
from torch.nn import functional as F

from training.model.drd import DRD
from training.model.fusion import MFCF
from training.model.heatmap import Heatmap, ScoreRule, distances
from training.model.teacher import BackboneError, Teacher
from training.recipe import Recipe

MILLION = 1e6


def frames(count: int = 2, size: int = 64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, size, size, 3), generator=generator, dtype=torch.uint8)


def parameters(module: torch.nn.Module) -> float:
    return round(sum(p.numel() for p in module.parameters()) / MILLION, 1)


@pytest.mark.parametrize(
    ("backbone", "shapes", "embedding"),
    [
        ("resnet18", [(64, 64), (128, 32), (256, 16)], (512, 8)),
        ("tf_efficientnet_lite0", [(24, 64), (40, 32), (112, 16)], (224, 8)),
        ("resnet50", [(256, 64), (512, 32), (1024, 16)], (2048, 8)),
    ],
)
def test_shapes_are_those_of_the_paper_s_table(
    backbone: str, shapes: list[tuple[int, int]], embedding: tuple[int, int]
) -> None:
    drd = DRD(Teacher(backbone), Recipe(student_levels=3)).eval()
    with torch.inference_mode():
        features = drd.teacher(frames(1, 256))
        assert [(f.shape[1], f.shape[2]) for f in features] == shapes
        assert drd.bottleneck(features).shape == (1, embedding[0], embedding[1], embedding[1])
        assert [r.shape for r in drd.restore(features)] == [f.shape for f in features]
        heatmap, score = drd(frames(2, 256))
    assert (heatmap.shape, heatmap.dtype) == ((2, 256, 256), torch.float32)
    assert (score.shape, score.dtype) == ((2,), torch.float32)


def test_wide_resnet50_has_the_paper_s_parameter_counts() -> None:
    drd = DRD(Teacher("wide_resnet50_2"), Recipe(student_levels=3))
    assert parameters(drd.bottleneck.fusion) == 48.4
    assert parameters(drd.bottleneck.embedding) == 42.0
    assert parameters(drd.student) == 24.9


@pytest.mark.parametrize("width", [1, 2])
def test_the_cascade_s_middle_is_as_wide_as_the_recipe_says(width: int) -> None:
    cascade = MFCF((64, 128, 256), width)
    assert cascade.second(torch.zeros(2, 2 * 128, 8, 8)).shape == (2, width * 256, 4, 4)
    levels = [torch.zeros(2, 64, 16, 16), torch.zeros(2, 128, 8, 8), torch.zeros(2, 256, 4, 4)]
    assert cascade(levels).shape == (2, 256, 4, 4)


@pytest.mark.parametrize(
    "backbone", ["resnet18", "resnet26t", "wide_resnet50_2", "seresnet50", "resnest14d", "regnety_004"]
)
def test_levels_before_their_relu_are_the_same_with_it(backbone: str) -> None:
    closed, opened = Teacher(backbone), Teacher(backbone, pre_relu=True)
    opened.load_state_dict(closed.state_dict())
    assert (closed.mirror().signed, opened.mirror().signed) == (False, True)
    for after, before in zip(closed(frames()), opened(frames()), strict=True):
        assert torch.equal(before.relu(), after)


@pytest.mark.parametrize("backbone", ["tf_efficientnet_lite0", "vgg11_bn", "densenet121", "res2net50_26w_4s"])
def test_where_levels_end_in_no_relu_of_a_block_they_stay_as_they_are(backbone: str) -> None:
    closed, opened = Teacher(backbone), Teacher(backbone, pre_relu=True)
    opened.load_state_dict(closed.state_dict())
    assert all(map(torch.equal, closed(frames()), opened(frames())))


@pytest.mark.parametrize("backbone", ["resnet18", "tf_efficientnet_lite0", "test_resnet"])
def test_the_teacher_holds_no_layer_above_the_third_level(backbone: str) -> None:
    teacher = Teacher(backbone).requires_grad_()
    torch.autograd.backward(torch.stack([f.square().sum() for f in teacher(frames())]).sum())
    unused = [name for name, p in teacher.named_parameters() if p.grad is None]
    assert unused == []


@pytest.mark.parametrize("levels", [2, 3])
@pytest.mark.parametrize(("fusion", "width"), [("mfcf", 1), ("mfcf", 2), ("mff", 2)])
def test_every_learned_tensor_takes_part(fusion: str, width: int, levels: int) -> None:
    fields = {"fusion": fusion, "fusion_width": width, "student_levels": levels, "height": 64, "width": 64}
    drd = DRD(Teacher("test_resnet"), Recipe.model_validate(fields))
    assert len(drd.restore(drd.teacher(frames()))) == levels
    torch.autograd.backward(torch.stack([level.sum() for level in drd.maps(frames())]).sum())
    learned = [*drd.bottleneck.named_parameters(), *drd.student.named_parameters()]
    assert [name for name, p in learned if p.grad is None] == []


@pytest.mark.parametrize(
    ("backbone", "bounded", "held"),
    [
        ("tf_efficientnet_lite0", True, True),
        ("tf_efficientnet_lite0", False, False),
        ("resnet18", True, False),
    ],
)
def test_what_is_far_from_all_good_parts_is_not_followed(backbone: str, bounded: bool, held: bool) -> None:
    """But by a student whose own activations are the features: those have no bound."""
    drd = DRD(Teacher(backbone), Recipe(bounded=bounded)).eval()
    far = [1000 * feature for feature in drd.teacher(frames())]
    assert bool(drd.bottleneck(far).max() <= 6) is held
    unbounded = [layer for layer in drd.student.modules() if isinstance(layer, torch.nn.ReLU)]
    assert (not unbounded) is held


def test_sizes_need_not_be_square() -> None:
    drd = DRD(Teacher("test_resnet"), Recipe(height=64, width=160)).eval()
    heatmap, _ = drd(torch.zeros(1, 64, 160, 3, dtype=torch.uint8))
    assert heatmap.shape == (1, 64, 160)


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        ("resnet81", "not a timm model"),
        ("vit_tiny_patch16_224", "strides 4, 8 and 16"),
        ("test_coatnet", "does not take every input size: .*100"),
        ("test_maxvit", r"does not take every input size: .*window \(5\)"),
        ("test_mambaout", r"gives features \[\(1, 16, 16, 16\), .* are needed"),
    ],
)
def test_unusable_backbones_say_why(backbone: str, message: str) -> None:
    with pytest.raises(BackboneError, match=message):
        Teacher(backbone)


def levels(peak: float) -> list[torch.Tensor]:
    """Flat maps for 64×64 frames, with one hot position in the second image of the finest level."""
    maps = [torch.full((2, side, side), 0.1) for side in (16, 8, 4)]
    maps[0][1, 5, 11] = peak
    return maps


def test_distance_is_one_minus_cosine() -> None:
    a, b = torch.tensor([[[[1.0]], [[0.0]]]]), torch.tensor([[[[1.0]], [[1.0]]]])
    assert distances([a], [b])[0].item() == pytest.approx(1 - 2**-0.5, abs=1e-6)


def test_the_heat_is_where_the_distance_is_and_only_in_its_image() -> None:
    heatmap, score = Heatmap(64, 64)(levels(2.0))
    assert torch.allclose(heatmap[0], torch.full((64, 64), 0.1))
    y, x = divmod(int(heatmap[1].argmax()), 64)
    assert abs(y - 4 * 5 - 1.5) <= 1
    assert abs(x - 4 * 11 - 1.5) <= 1
    assert score[1] == heatmap[1].max()
    assert score[0] == pytest.approx(0.1)


@pytest.mark.parametrize("sigma", [4.0, 8.0])
def test_the_heatmap_is_the_mean_of_the_upsampled_maps_smoothed(sigma: float) -> None:
    maps = [torch.rand(2, 64 // s, 96 // s, generator=torch.Generator().manual_seed(s)) for s in (8, 16)]
    heatmap, _ = Heatmap(64, 96, (8, 16), ScoreRule(sigma=sigma))(maps)
    reach = int(4 * sigma)
    bell = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
    kernel = torch.outer(bell, bell) / bell.sum() ** 2
    first, second = (F.interpolate(one[:, None], (64, 96), mode="bilinear") for one in maps)
    expected = F.conv2d(F.pad((first + second) / 2, [reach] * 4, mode="replicate"), kernel[None, None])[:, 0]
    torch.testing.assert_close(heatmap, expected, rtol=0, atol=1e-5)


def test_an_image_scores_alike_in_any_company() -> None:
    drd = DRD(Teacher("test_resnet"), Recipe(height=64, width=64)).eval()
    with torch.inference_mode():
        together, alone = drd(frames(4))[1], torch.cat([drd(f[None])[1] for f in frames(4)])
    assert torch.allclose(together, alone, atol=1e-5)


@pytest.mark.parametrize("refined", [False, True])
def test_outside_the_region_of_interest_nothing_counts(refined: bool) -> None:
    module = Heatmap(64, 64, rule=ScoreRule(refinement=refined))
    module.set_roi((torch.arange(64) < 32).expand(64, 64).float())
    heatmap, score = module(levels(2.0))
    assert (heatmap[:, :, 32:] == 0).all()
    assert score[1] < 0.3
    assert score[1] == heatmap[1, :, :32].max() * (1.1 if refined else 1)


def test_refinement_is_by_the_peaks_within_the_region_of_interest() -> None:
    plain, refined = Heatmap(64, 64), Heatmap(64, 64, rule=ScoreRule(refinement=True))
    maps = levels(0.1)
    for one in maps:
        one[:, :, one.shape[2] // 2 :] = 2.0
    for module in (plain, refined):
        module.set_roi((torch.arange(64) < 32).expand(64, 64).float())
    assert torch.allclose(refined(maps)[1], 1.1 * plain(maps)[1])


def test_no_checkpoint_holds_a_region_of_interest() -> None:
    """It is set at export: a mask that was loaded would not change `roi_share`."""
    assert set(Heatmap(64, 64).state_dict()) == {"scale"}


def test_top_share_is_the_mean_of_the_hottest_pixels() -> None:
    plain, top = Heatmap(64, 64), Heatmap(64, 64, rule=ScoreRule(top_fraction=1.0))
    heatmap, score = top(levels(2.0))
    assert torch.allclose(score, heatmap.mean((1, 2)), atol=1e-6)
    assert score[1] < plain(levels(2.0))[1][1]


def test_top_is_a_share_of_the_region_of_interest() -> None:
    module = Heatmap(64, 64, rule=ScoreRule(top_fraction=1.0))
    module.set_roi((torch.arange(64) < 16).expand(64, 64).float())
    heatmap, score = module(levels(2.0))
    assert torch.allclose(score, heatmap[:, :, :16].mean((1, 2)), atol=1e-6)


def test_the_paper_s_refinement_is_by_the_peak_of_the_least_varying_level() -> None:
    maps = levels(2.0)
    maps[1][1], maps[2][1, 0, 0] = 0.3, 0.2  # in the second image only the second level does not vary
    plain, refined = Heatmap(64, 64)(maps)[1], Heatmap(64, 64, rule=ScoreRule(refinement=True))(maps)[1]
    assert refined[1] == pytest.approx(float(plain[1]) * 1.3, rel=1e-5)


def test_levels_vary_as_their_upsampled_maps_do() -> None:
    generator = torch.Generator().manual_seed(0)
    maps = [torch.rand(50, side, side, generator=generator) for side in (16, 8, 4)]
    maps[0] *= 0.85  # near enough to make either of two levels the least varying
    full = [F.interpolate(one[:, None], (64, 64), mode="bilinear")[:, 0] for one in maps]
    expected = torch.stack([one.var((1, 2)) for one in full], 1).argmin(1)
    assert len(set(expected.tolist())) > 1
    plain, refined = Heatmap(64, 64)(maps)[1], Heatmap(64, 64, rule=ScoreRule(refinement=True))(maps)[1]
    peaks = torch.stack([one.amax((1, 2)) for one in maps], 1)
    assert torch.allclose(refined / plain - 1, peaks.gather(1, expected[:, None])[:, 0], atol=1e-5)


def test_normalisation_gives_every_level_the_same_range() -> None:
    generator = torch.Generator().manual_seed(0)
    normal = [torch.rand(40, side, side, generator=generator) * (k + 1) for k, side in enumerate((16, 8, 4))]
    module = Heatmap(64, 64, rule=ScoreRule(normalise=True))
    module.fit(normal)
    assert torch.allclose(module.scale, torch.tensor([0.495, 0.99, 1.485]), atol=0.02)


def test_without_normalisation_the_ranges_have_no_part() -> None:
    """They are fitted for every rule."""
    plain, fitted = Heatmap(64, 64), Heatmap(64, 64)
    fitted.fit(levels(2.0))
    assert torch.equal(fitted(levels(0.5))[0], plain(levels(0.5))[0])


def test_maps_that_hardly_vary_are_not_amplified() -> None:
    """Of a very uniform product, whose range is rounding, or none: 0 would make NaN of every score."""
    module = Heatmap(64, 64, rule=ScoreRule(normalise=True))
    module.fit(levels(0.1))
    assert module.scale.tolist() == pytest.approx([1e-3] * 3)
