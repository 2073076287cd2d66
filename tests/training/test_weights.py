"""Where the teacher's weights come from, and what is said when they are another network's."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

from training.model.drd import DRD
from training.model.teacher import BackboneError, Mirror, Teacher
from training.model.weights import load_teacher
from training.recipe import PRESETS, Recipe

FRAMES = torch.arange(2 * 64 * 64 * 3).remainder(256).view(2, 64, 64, 3).to(torch.uint8)


def classifier_state(backbone: str) -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    state: dict[str, torch.Tensor] = timm.create_model(backbone, pretrained=False).state_dict()
    return state


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_file_gives_the_network_its_features(tmp_path: Path, suffix: str) -> None:
    state, path = classifier_state("resnet18"), tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save({"state_dict": state}, path)
    else:
        save_file(state, path)
    teacher = load_teacher("resnet18", path)
    whole = timm.create_model("resnet18", pretrained=False, features_only=True, out_indices=(1, 2, 3))
    whole.load_state_dict({name: state[name] for name in whole.state_dict()})
    normalised = (FRAMES.permute(0, 3, 1, 2).float() - teacher.mean) / teacher.std
    with torch.inference_mode():
        for ours, theirs in zip(teacher(FRAMES), whole.eval()(normalised), strict=True):
            assert (ours - theirs).norm() < 0.01 * theirs.norm()  # for the weights have been rounded


@pytest.mark.parametrize(
    ("backbone", "levels"),
    [
        ("test_byobnet", ["stages.0", "stages.1", "stages.2"]),
        ("test_convnext", ["stages.0", "stages.1", "stages.2"]),
        ("mobilevit_xxs", ["stages.1", "stages.2", "stages.3"]),
        ("dla34", ["level2", "level3", "level4"]),
        ("efficientformer_l1", ["stages.0", "stages.1", "stages.2"]),
    ],
)
def test_every_family_gives_its_own_features(tmp_path: Path, backbone: str, levels: list[str]) -> None:
    """However timm names the parts of the feature network."""
    torch.manual_seed(3)
    whole = timm.create_model(backbone, pretrained=False).eval()
    torch.save(whole.state_dict(), tmp_path / "whole.pth")
    teacher = load_teacher(backbone, tmp_path / "whole.pth")
    theirs = list[torch.Tensor]()
    for level in levels:
        whole.get_submodule(level).register_forward_hook(lambda _, __, result: theirs.append(result))
    frames = FRAMES.repeat(1, 4, 4, 1)[:, :224, :224]  # which the layers above may insist on
    drd = DRD(teacher, Recipe(height=64, width=96)).eval()
    with torch.inference_mode():
        whole(teacher.normalised(frames))
        for ours, one in zip(teacher(frames), theirs, strict=True):
            assert (ours - one).norm() < 0.02 * one.norm()  # for the weights have been rounded
        assert torch.isfinite(drd(frames[:, :64, :96])[1]).all()


@pytest.mark.parametrize(
    "backbone",
    [
        "tf_efficientnet_lite0",
        "tf_efficientnet_lite0.in1k",
        "tf_efficientnet_lite1",
        "tf_efficientnet_lite2",
    ],
)
def test_the_packaged_efficientnets_are_imagenet_s(backbone: str) -> None:
    # The batch statistics are not those of initialisation.
    teacher = load_teacher(backbone)
    assert teacher.net.state_dict()["bn1.bias"].any()
    assert teacher.mean.flatten().tolist() == [127.0] * 3
    assert teacher.std.flatten().tolist() == [128.0] * 3


def test_the_paper_s_teacher_is_a_wide_resnet_whatever_its_weights() -> None:
    paper, plain = Teacher(PRESETS["paper"].backbone), Teacher("wide_resnet50_2")
    assert paper.mirror() == plain.mirror() == Mirror((256, 512, 1024), False, 0.5, (3, 4, 6))
    assert torch.equal(paper.mean, plain.mean)


def test_a_tag_chooses_the_weights_on_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    create, fetched = timm.create_model, list[str]()

    def without_network(name: str, pretrained: bool, **options: Any) -> Any:
        fetched.extend([name] * pretrained)
        return create(name, pretrained=False, **options)

    monkeypatch.setattr(timm, "create_model", without_network)
    load_teacher("test_resnet.r160_in1k")
    assert fetched == ["test_resnet.r160_in1k"]


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        ("resnet81.tv_in1k", r"'resnet81\.tv_in1k' is not a timm model"),
        ("wide_resnet50_2.v1", r"no weights of this tag; there are .*racm_in1k, .*wide_resnet50_2\.tv_in1k"),
        ("resnet18.", "no weights of this tag"),
        ("botnet50ts_256.a1_in1k", "botnet50ts_256 has none"),
    ],
)
def test_unknown_tags_say_which_there_are(backbone: str, message: str) -> None:
    with pytest.raises(BackboneError, match=message):
        load_teacher(backbone)


def test_missing_and_unexpected_tensors_are_named(tmp_path: Path) -> None:
    save_file(classifier_state("resnet18"), tmp_path / "r18.safetensors")
    with pytest.raises(
        BackboneError, match=r"tensors missing \(layer1\.2\.bn1\.bias.*unexpected there: fc\.bias"
    ):
        load_teacher("resnet34", tmp_path / "r18.safetensors")


def test_wrong_shapes_are_named(tmp_path: Path) -> None:
    state = classifier_state("resnet18")
    state["conv1.weight"] = torch.zeros(64, 1, 7, 7)
    save_file(state, tmp_path / "grey.safetensors")
    with pytest.raises(BackboneError, match=r"conv1\.weight is \[64, 1, 7, 7\], not \[64, 3, 7, 7\]"):
        load_teacher("resnet18", tmp_path / "grey.safetensors")


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth"])
def test_damaged_and_missing_files_are_one_clear_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(BackboneError, match=r"cannot be read \(No such file or directory\)"):
        load_teacher("resnet18", tmp_path / name)
    (tmp_path / "folder" / name).mkdir(parents=True)
    with pytest.raises(BackboneError, match=r"cannot be read \(Is a directory\)"):
        load_teacher("resnet18", tmp_path / "folder" / name)
    (tmp_path / name).write_bytes(b"not weights")
    with pytest.raises(BackboneError, match="cannot be read"):
        load_teacher("resnet18", tmp_path / name)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (5, "not a state dict"),
        (torch.zeros(3), "not a state dict"),
        ({"state_dict": 5}, "not a state dict"),
        ({"state_dict": torch.zeros(3)}, "not a state dict"),
        ({1: torch.zeros(3)}, "not a state dict"),
        (torch.nn.Linear(2, 2), "cannot be read as"),
    ],
)
def test_a_torch_file_of_something_else_is_one_clear_line(
    tmp_path: Path, content: object, message: str
) -> None:
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(BackboneError, match=message) as caught:
        load_teacher("test_resnet", tmp_path / "other.pth")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("content", [b"", b"hello"])
def test_a_file_of_no_tensors_says_so(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "weights.pth").write_bytes(content)
    with pytest.raises(
        BackboneError, match="cannot be read as safetensors or as a torch file of tensors only"
    ):
        load_teacher("test_resnet", tmp_path / "weights.pth")


def test_weights_that_are_not_numbers_are_named(tmp_path: Path) -> None:
    state = classifier_state("resnet18")
    state["layer1.0.conv1.weight"][3] = float("nan")
    state["layer2.0.conv1.weight"][3] = float("inf")
    save_file(state, tmp_path / "nan.safetensors")
    with pytest.raises(BackboneError, match=r"layer1\.0\.conv1\.weight is not finite"):
        load_teacher("resnet18", tmp_path / "nan.safetensors")


def test_a_pickle_with_code_in_it_is_not_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (tmp_path / "sprung",)  # type: ignore[return-value]

    torch.save({"conv1.weight": Trap()}, tmp_path / "trap.pth")
    with pytest.raises(BackboneError, match="cannot be read"):
        load_teacher("resnet18", tmp_path / "trap.pth")
    assert not (tmp_path / "sprung").exists()
