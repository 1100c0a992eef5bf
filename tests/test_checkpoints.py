from __future__ import annotations

import argparse
import pickle
import warnings
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from robovision import weights
from robovision.encoders.build import build
from robovision.encoders.checkpoints import (
    fetch,
    fetched,
    find_weights,
    load_encoder,
    load_pretrained,
    weights_folder,
)
from robovision.encoders.inventory import check_weights, list_weights
from robovision.encoders.names import ENCODERS, Adapter
from robovision.encoders.pickles import read_tensors
from robovision.encoders.vit import ViT, ViTSize
from robovision.errors import UsageError

SMALL = ViTSize(64, 2, 2)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder for every test."""
    monkeypatch.setenv("ROBOVISION_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class Malice:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.trace,)


def torchscript(path: Path) -> Path:
    module = nn.Module()
    module.register_parameter("weight", nn.Parameter(torch.arange(6.0).view(2, 3)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(module).save(str(path))  # type: ignore[no-untyped-call]
    return path


def poisoned_torchscript(trace: Path, path: Path) -> None:
    """A TorchScript archive in whose table of attributes code is hidden."""
    with zipfile.ZipFile(torchscript(path.with_suffix(".clean"))) as clean, zipfile.ZipFile(path, "w") as poisoned:
        for name in clean.namelist():
            content = clean.read(name)
            poisoned.writestr(name, pickle.dumps(Malice(trace), 2) if name.endswith("data.pkl") else content)


@pytest.mark.parametrize("kind", ["pickle", "torch", "nested", "torchscript"])
def test_hidden_code_is_refused_and_not_executed(kind: str, tmp_path: Path) -> None:
    trace, path = tmp_path / "executed", tmp_path / "model.pt"
    match kind:
        case "pickle":
            path.write_bytes(pickle.dumps(Malice(trace)))
        case "torch":
            torch.save(Malice(trace), path)
        case "nested":
            torch.save({"model": {"norm.weight": torch.ones(3)}, "args": argparse.Namespace(x=Malice(trace))}, path)
        case _:
            poisoned_torchscript(trace, path)
    with pytest.raises(UsageError, match=r"is refused: .*\n?.*Nothing in it was executed"):
        load_pretrained(ViT(SMALL), path)
    assert not trace.exists()


def test_the_poison_is_real(tmp_path: Path) -> None:
    poisoned_torchscript(tmp_path / "executed", tmp_path / "model.pt")
    with zipfile.ZipFile(tmp_path / "model.pt") as archive:
        pickle.loads(archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl"))))
    assert (tmp_path / "executed").exists()


def test_a_torchscript_archive_is_read_without_its_code(tmp_path: Path) -> None:
    path = torchscript(tmp_path / "model.pt")
    assert torch.equal(read_tensors(path)["weight"], torch.arange(6.0).view(2, 3))


@pytest.mark.parametrize("kind", ["safetensors", "pickle", "torchscript"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.95])
def test_truncated_files_are_said(kind: str, share: float, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    match kind:
        case "safetensors":
            weights.save(path, ViT(SMALL).state_dict())
        case "pickle":
            torch.save(ViT(SMALL).state_dict(), path)
        case _:
            torchscript(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(UsageError, match=r"truncated or no|no readable safetensors|is refused"):
        load_pretrained(ViT(SMALL), path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not a checkpoint at all", "is refused|truncated or no checkpoint"),
        (pickle.dumps({"epoch": 3}), "is refused|truncated|holds no tensors"),
        (pickle.dumps([1, 2]), "is refused|truncated|holds no tensors"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1f\nsize 9\n", "pointer of Git LFS"),
        (b"\n<!DOCTYPE html><html><body>Not found</body></html>", "is a web page and no checkpoint"),
    ],
)
def test_foreign_files_are_said(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(UsageError, match=message):
        read_tensors(tmp_path / "x")
    torch.save({"model": {"epoch": 3}}, tmp_path / "y")
    with pytest.raises(UsageError, match="holds no tensors"):
        read_tensors(tmp_path / "y")
    with pytest.raises(UsageError, match="there is no weight file"):
        read_tensors(tmp_path / "none")
    with pytest.raises(UsageError, match="there is no weight file"):
        read_tensors(tmp_path)


@pytest.mark.parametrize("kind", ["pickle", "torchscript"])
def test_a_flipped_bit_is_said(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    if kind == "pickle":
        torch.save({"weight": torch.arange(6.0)}, path)
    else:
        torchscript(path)
    content = bytearray(path.read_bytes())
    content[content.index(torch.arange(6.0).numpy().tobytes()) + 6] ^= 1
    path.write_bytes(content)
    with pytest.raises(UsageError, match="is damaged, get it again: Bad CRC-32 for file"):
        read_tensors(path)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "_orig_mod.module.", "module._orig_mod."])
def test_what_is_wrapped_around_a_network_is_left_out_of_its_names(prefix: str, tmp_path: Path) -> None:
    vit = ViT(SMALL)
    state = {f"{prefix}{name}": value for name, value in vit.state_dict().items()}
    torch.save({"model": state, "epoch": 3}, tmp_path / "w.pth")
    weights.save(tmp_path / "w.safetensors", state)
    for file in ("w.pth", "w.safetensors"):
        other = ViT(SMALL)
        assert load_pretrained(other, tmp_path / file) == "timm, MAE, MVP, VC-1 or DINOv2"
        assert all(torch.equal(value, vit.state_dict()[name]) for name, value in other.state_dict().items())
    torch.save({**state, **vit.state_dict()}, tmp_path / "both.pth")
    with pytest.raises(UsageError, match=r"both\.pth holds cls_token twice, once as cls_token: leave only one"):
        load_pretrained(ViT(SMALL), tmp_path / "both.pth")


def test_another_architecture_is_named_tensor_by_tensor(tmp_path: Path) -> None:
    torch.save(ViT(ViTSize(64, 3, 2)).state_dict(), tmp_path / "deep.pth")
    with pytest.raises(UsageError) as caught:
        load_pretrained(ViT(SMALL), tmp_path / "deep.pth")
    missing = [f"unexpected: blocks.2.{name}" for name in ViT(SMALL).blocks[0].state_dict()]
    assert str(caught.value).splitlines()[1:] == [f"  {line}" for line in missing]
    torch.save(ViT(ViTSize(96, 2, 2)).state_dict(), tmp_path / "wide.pth")
    with pytest.raises(UsageError, match=r"misshapen: blocks.0.attn.qkv.weight is \[288, 96\], not \[192, 64\]"):
        load_pretrained(ViT(SMALL), tmp_path / "wide.pth")
    torch.save(ViT(SMALL, patch=8).state_dict(), tmp_path / "fine.pth")
    with pytest.raises(UsageError, match=r"misshapen: patch_embed.proj.weight is \[64, 3, 8, 8\], not"):
        load_pretrained(ViT(SMALL), tmp_path / "fine.pth")
    torch.save({"layer1.0.conv1.weight": torch.ones(2)}, tmp_path / "resnet.pth")
    with pytest.raises(UsageError, match=r"(?s)ResNet of torchvision.*missing: cls_token.*unexpected: layer1"):
        load_pretrained(ViT(SMALL), tmp_path / "resnet.pth")


def test_an_adapter_keeps_its_weights_and_the_vit_gets_the_files(tmp_path: Path) -> None:
    plain = build("vit-tiny", 32)
    torch.save(plain.state_dict(), tmp_path / "w.pth")
    images = torch.rand(1, 3, 64, 64)
    adapters: tuple[Adapter, ...] = ("coin", "lora", "adaptformer", "roboadapter")
    for adapter in adapters:
        encoder = build("vit-tiny", 64, adapter, pretrained=True)
        load_pretrained(encoder, tmp_path / "w.pth")
        assert torch.allclose(encoder.eval()(images).pooled, plain.eval()(images).pooled, atol=1e-5)


def test_a_trained_adapter_in_a_file_is_loaded_or_refused(tmp_path: Path) -> None:
    trained = build("vit-tiny", 64, "coin").eval()
    weights.save(tmp_path / "w.safetensors", trained.state_dict())
    encoder = load_encoder("vit-tiny", 64, "coin", tmp_path / "w.safetensors")
    images = torch.rand(1, 3, 64, 64)
    assert torch.equal(encoder(images).tokens, trained(images).tokens)
    with pytest.raises(UsageError, match=r"unexpected: injector\.gamma"):
        load_encoder("vit-tiny", 64, "none", tmp_path / "w.safetensors")
    with pytest.raises(UsageError, match=r"missing: blocks\.0\.attn\.qkv\.adapter"):
        load_encoder("vit-tiny", 64, "lora", tmp_path / "w.safetensors")


def test_tensors_of_another_kind_are_named(tmp_path: Path) -> None:
    state = ViT(SMALL).state_dict()
    torch.save(state | {"norm.weight": torch.ones(64, dtype=torch.long)}, tmp_path / "w.pth")
    with pytest.raises(UsageError, match=r"of another type: norm\.weight is torch\.int64, not torch\.float32"):
        load_pretrained(ViT(SMALL), tmp_path / "w.pth")
    torch.save(state | {"pos_embed": torch.zeros(1, 1, 64)}, tmp_path / "w.pth")
    with pytest.raises(UsageError, match=r"misshapen: pos_embed is \[1, 1, 64\]"):
        load_pretrained(ViT(SMALL), tmp_path / "w.pth")
    torch.save({name: value.double() for name, value in state.items()}, tmp_path / "w.pth")
    load_pretrained(ViT(SMALL), tmp_path / "w.pth")


def test_every_name_says_where_its_weights_belong() -> None:
    for name, spec in ENCODERS.items():
        if spec.needs_weights and not spec.embedded:
            with pytest.raises(UsageError) as caught:
                find_weights(name)
            assert str(weights_folder(name)) in str(caught.value)
            assert (spec.hub or spec.page) in str(caught.value)


def test_a_file_in_the_folder_is_found_and_checked(cache: Path) -> None:
    folder = cache / "weights" / "vit-tiny"
    folder.mkdir(parents=True)
    weights.save(folder / "any name.safetensors", build("vit-tiny", 64).state_dict())
    assert find_weights("vit-tiny") == fetch("vit-tiny") == folder / "any name.safetensors"
    assert f"here: {folder}" in list_weights()
    assert "vit-tiny: " in check_weights(None, None)
    assert "5.5 M parameters" in check_weights("vit-tiny", folder / "any name.safetensors")
    (folder / "another").touch()
    with pytest.raises(UsageError, match="holds several files, another, any name"):
        fetched("vit-tiny")


def test_nan_in_weights_is_said(tmp_path: Path) -> None:
    state = build("vit-tiny", 64).state_dict()
    torch.save(state | {"norm.bias": torch.full((192,), float("nan"))}, tmp_path / "w.pth")
    with pytest.raises(UsageError, match=r"norm\.bias holds numbers that are NaN"):
        check_weights("vit-tiny", tmp_path / "w.pth")
    with pytest.raises(UsageError, match="say for which encoder"):
        check_weights(None, tmp_path / "w.pth")
    with pytest.raises(UsageError, match="no weights of vit-tiny in"):
        check_weights("vit-tiny", None)
    embedded = [
        f"{name}: {weights.find(name)}, checksum right" for name in ("vit-tiny-sim", "lidar-small-sim", "strek")
    ]
    assert check_weights(None, None).splitlines() == embedded


def test_what_cannot_be_fetched_says_where_to_put_the_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hub = pytest.importorskip("huggingface_hub")
    from huggingface_hub.utils import logging

    errors = pytest.importorskip("huggingface_hub.errors")
    with pytest.raises(UsageError, match=r"(?s)mvp-vit-b16 is not on the Hugging Face Hub.*and put it"):
        fetch("mvp-vit-b16")
    asked = []

    def offline(repository: str, file: str, local_dir: Path) -> str:
        asked.append((repository, file, local_dir))
        logging.get_logger("huggingface_hub.utils").warning("Retrying in 1s [Retry 1/5].")
        raise errors.LocalEntryNotFoundError("not in the cache") from OSError("no route to host")

    monkeypatch.setattr(hub, "hf_hub_download", offline)
    with pytest.raises(UsageError, match=r"(?s)can't be fetched: no route to host\n.*and put it.*clip-vit-b16/"):
        fetch("clip-vit-b16")
    assert capsys.readouterr().err == ""
    assert asked == [("openai/clip-vit-base-patch16", "model.safetensors", weights_folder("clip-vit-b16"))]
    with pytest.raises(UsageError, match="no published weights"):
        fetch("vit-tiny")


def test_the_hub_is_asked_for_each_known_file(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")
    errors = pytest.importorskip("huggingface_hub.errors")

    def only_pickle(repository: str, file: str, local_dir: Path) -> str:
        if file != "pytorch_model.bin":
            raise errors.EntryNotFoundError(file)
        return str(local_dir / file)

    monkeypatch.setattr(hub, "hf_hub_download", only_pickle)
    assert fetch("vc1-vit-b16") == weights_folder("vc1-vit-b16") / "pytorch_model.bin"
