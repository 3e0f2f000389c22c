"""Every supported kind of file becomes the tensor its samples say, and every damaged one an error that names it."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import skimage.io
import torch
from PIL import Image, ImageOps
from torch.nn.functional import interpolate

from layerscope.data.images import image_size_in_file, read_image
from layerscope.errors import ConfigurationError, DataError

RETINA = np.asarray(skimage.data.retina())[400:496, 300:428].copy()
ASTRONAUT = np.asarray(skimage.data.astronaut())[:64, 180:260].copy()


def expected(samples: np.ndarray, white: int = 255) -> torch.Tensor:
    """(H, W, 3) integers to the tensor of the contract."""
    return torch.from_numpy(samples.astype(np.float64) / white * 2 - 1).permute(2, 0, 1).float()


def png(samples: np.ndarray, bits: int, colour_type: int) -> bytes:
    """A PNG made by hand: no library in between that might change the depth."""
    height, width = samples.shape[:2]
    rows = samples.reshape(height, -1).astype(">u2" if bits == 16 else "u1")
    data = b"".join(b"\0" + row.tobytes() for row in rows)

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.bmp", "a.webp"])
@pytest.mark.parametrize("picture", [RETINA, ASTRONAUT], ids=["retina", "astronaut"])
def test_lossless_formats_give_the_exact_samples(tmp_path: Path, name: str, picture: np.ndarray) -> None:
    Image.fromarray(picture).save(tmp_path / name, **({"lossless": True} if name.endswith("webp") else {}))
    image = read_image(tmp_path / name)
    assert image.dtype == torch.float32
    torch.testing.assert_close(image, expected(picture), atol=1e-6, rtol=0)
    assert image_size_in_file(tmp_path / name) == (picture.shape[1], picture.shape[0])


def test_jpeg_gives_what_another_reader_decodes(tmp_path: Path) -> None:
    Image.fromarray(RETINA).save(tmp_path / "a.jpg", quality=90)
    torch.testing.assert_close(
        read_image(tmp_path / "a.jpg"), expected(skimage.io.imread(tmp_path / "a.jpg")), atol=1e-6, rtol=0
    )


def wide(channels: int) -> np.ndarray:
    """16-bit samples whose lower bytes matter."""
    return np.random.default_rng(channels).integers(0, 65536, (17, 23, channels), dtype=np.uint16)


def test_16_bit_grey_png_is_divided_by_65535(tmp_path: Path) -> None:
    samples = wide(1)
    (tmp_path / "a.png").write_bytes(png(samples, 16, 0))
    torch.testing.assert_close(
        read_image(tmp_path / "a.png"), expected(samples.repeat(3, axis=2), 65535), atol=1e-6, rtol=0
    )


@pytest.mark.parametrize(("channels", "colour_type"), [(2, 4), (3, 2), (4, 6)], ids=["grey+alpha", "rgb", "rgba"])
def test_16_bit_colour_png_keeps_its_lower_bytes(tmp_path: Path, channels: int, colour_type: int) -> None:
    samples = wide(channels)
    (tmp_path / "a.png").write_bytes(png(samples, 16, colour_type))
    exact = samples / 65535
    if channels in (2, 4):
        exact = exact[..., :-1] * exact[..., -1:]
    if channels == 2:
        exact = exact.repeat(3, axis=2)
    torch.testing.assert_close(read_image(tmp_path / "a.png"), expected(exact, 1), atol=1e-6, rtol=0)


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("channels", [1, 3])
def test_16_bit_tiff_keeps_its_lower_bytes(
    tmp_path: Path, channels: int, byteorder: str, compression: str | None
) -> None:
    import tifffile

    samples = wide(channels)
    tifffile.imwrite(
        tmp_path / "a.tif",
        samples if channels == 3 else samples[..., 0],
        photometric="rgb" if channels == 3 else "minisblack",
        byteorder=byteorder,
        compression=compression,
    )
    rgb = samples if channels == 3 else samples.repeat(3, axis=2)
    torch.testing.assert_close(read_image(tmp_path / "a.tif"), expected(rgb, 65535), atol=1e-6, rtol=0)


def test_16_bit_rgba_tiff_is_composited_in_16_bits(tmp_path: Path) -> None:
    import tifffile

    samples = wide(4)
    tifffile.imwrite(tmp_path / "a.tif", samples, photometric="rgb", extrasamples=["unassalpha"])
    exact = samples[..., :3] / 65535 * (samples[..., 3:] / 65535)
    torch.testing.assert_close(read_image(tmp_path / "a.tif"), expected(exact, 1), atol=1e-6, rtol=0)


def test_16_bit_tiff_of_separate_planes_is_refused(tmp_path: Path) -> None:
    import tifffile

    planes = wide(3).transpose(2, 0, 1)
    tifffile.imwrite(tmp_path / "a.tif", planes, photometric="rgb", planarconfig="separate")
    with pytest.raises(DataError, match=r"a\.tif"):
        read_image(tmp_path / "a.tif")


def test_grey_with_alpha(tmp_path: Path) -> None:
    grey, alpha = RETINA[..., 0], RETINA[..., 1]
    Image.fromarray(np.dstack([grey, alpha]), mode="LA").save(tmp_path / "a.png")
    product = (grey / 255 * (alpha / 255))[..., None].repeat(3, axis=2)
    torch.testing.assert_close(read_image(tmp_path / "a.png"), expected(product, 1), atol=1e-6, rtol=0)


def test_of_several_pages_the_first_is_read(tmp_path: Path) -> None:
    first, second = Image.fromarray(RETINA), Image.fromarray(255 - RETINA)
    first.save(tmp_path / "a.tif", save_all=True, append_images=[second])
    torch.testing.assert_close(read_image(tmp_path / "a.tif"), expected(RETINA), atol=1e-6, rtol=0)


def test_grey_and_black_and_white_are_repeated_over_the_channels(tmp_path: Path) -> None:
    grey = RETINA[..., 1]
    Image.fromarray(grey).save(tmp_path / "grey.png")
    torch.testing.assert_close(read_image(tmp_path / "grey.png"), expected(np.stack([grey] * 3, 2)), atol=1e-6, rtol=0)
    bits = grey > 100
    Image.fromarray(bits).save(tmp_path / "bits.png")
    torch.testing.assert_close(
        read_image(tmp_path / "bits.png"), expected(np.stack([bits] * 3, 2), 1), atol=1e-6, rtol=0
    )


def test_alpha_is_composited_on_black(tmp_path: Path) -> None:
    alpha = np.linspace(0, 255, ASTRONAUT.shape[1]).astype(np.uint8)[None, :].repeat(len(ASTRONAUT), 0)
    Image.fromarray(np.dstack([ASTRONAUT, alpha])).save(tmp_path / "a.png")
    product = ASTRONAUT / 255 * (alpha[..., None] / 255)
    torch.testing.assert_close(read_image(tmp_path / "a.png"), expected(product, 1), atol=1e-6, rtol=0)


def test_palette_is_looked_up_and_its_transparent_colour_is_black(tmp_path: Path) -> None:
    palette = Image.fromarray(ASTRONAUT).quantize(16)
    palette.save(tmp_path / "a.png")
    colours = np.asarray(palette.convert("RGB"))
    torch.testing.assert_close(read_image(tmp_path / "a.png"), expected(colours), atol=1e-6, rtol=0)
    palette.save(tmp_path / "b.png", transparency=3)
    colours = np.where((np.asarray(palette) == 3)[..., None], 0, colours)
    torch.testing.assert_close(read_image(tmp_path / "b.png"), expected(colours), atol=1e-6, rtol=0)


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    cmyk = np.dstack([255 - RETINA, np.full(RETINA.shape[:2], 51, np.uint8)])
    Image.fromarray(cmyk, mode="CMYK").save(tmp_path / "a.tif")
    torch.testing.assert_close(read_image(tmp_path / "a.tif"), expected(RETINA * 0.8), atol=1e-5, rtol=0)
    # A JPEG from a photo editor: Pillow writes and reads Adobe's inverted inks.
    Image.fromarray(cmyk, mode="CMYK").save(tmp_path / "a.jpg", quality=100, subsampling=0)
    assert (read_image(tmp_path / "a.jpg") - expected(RETINA * 0.8)).abs().mean() < 0.02


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, suffix: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{suffix}"
    lossless = {"lossless": True} if suffix == "webp" else {}
    Image.fromarray(ASTRONAUT).save(path, exif=exif, **lossless)
    with Image.open(path) as stored:
        upright = np.asarray(ImageOps.exif_transpose(stored))
    image = read_image(path)
    assert image.shape[1:] == ((80, 64) if orientation > 4 else (64, 80))
    torch.testing.assert_close(image, expected(upright), atol=1e-6, rtol=0)


def test_16_bit_tiff_with_orientation(tmp_path: Path) -> None:
    import tifffile

    samples = wide(3)
    tifffile.imwrite(tmp_path / "a.tif", samples, photometric="rgb", extratags=[(274, "H", 1, 6, True)])
    torch.testing.assert_close(
        read_image(tmp_path / "a.tif"), expected(np.rot90(samples, -1), 65535), atol=1e-6, rtol=0
    )


@pytest.mark.parametrize(("ours", "torchs"), [("bilinear", "bilinear"), ("bicubic", "bicubic")])
def test_resizing_is_antialiased_and_agrees_with_torch(tmp_path: Path, ours: str, torchs: str) -> None:
    Image.fromarray(RETINA[:96, :96]).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png", image_size=40, resize_filter=ours)  # type: ignore[arg-type]
    reference = interpolate(expected(RETINA[:96, :96])[None], size=(40, 40), mode=torchs, antialias=True)[0]
    # Pillow's cubic has a = -0.5, as torch's antialiased one.
    torch.testing.assert_close(image, reference.clamp(-1, 1), atol=1e-4, rtol=0)


def test_box_filter_is_the_mean_and_keeps_16_bits(tmp_path: Path) -> None:
    samples = (30000 + np.arange(64).reshape(8, 8)).astype(np.uint16)
    Image.fromarray(samples).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png", image_size=4, resize_filter="box")
    means = samples.reshape(4, 2, 4, 2).mean(axis=(1, 3))[..., None].repeat(3, axis=2)
    torch.testing.assert_close(image, expected(means, 65535), atol=1e-6, rtol=0)


def test_lanczos_stays_within_range(tmp_path: Path) -> None:
    step = np.zeros((32, 32), np.uint8)
    step[:, 16:] = 255
    Image.fromarray(step).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png", image_size=64, resize_filter="lanczos")
    assert image.min() == -1
    assert image.max() == 1


def test_unknown_filter_is_an_error(tmp_path: Path) -> None:
    Image.fromarray(RETINA).save(tmp_path / "a.png")
    with pytest.raises(ConfigurationError, match=r"nearest.*expected bilinear"):
        read_image(tmp_path / "a.png", image_size=8, resize_filter="nearest")  # type: ignore[arg-type]


def test_the_centre_is_cut_before_resizing(tmp_path: Path) -> None:
    Image.fromarray(RETINA).save(tmp_path / "a.png")
    cut = read_image(tmp_path / "a.png", center_crop_size=64)
    torch.testing.assert_close(cut, expected(RETINA[16:80, 32:96]), atol=1e-6, rtol=0)
    small = read_image(tmp_path / "a.png", center_crop_size=64, image_size=32, resize_filter="box")
    torch.testing.assert_close(small, torch.nn.functional.avg_pool2d(cut, 2), atol=1e-5, rtol=0)
    # Without a crop size the largest square is taken: shapes keep their proportions.
    square = read_image(tmp_path / "a.png", image_size=48, resize_filter="box")
    whole = expected(RETINA[:, 16:112])
    torch.testing.assert_close(square, torch.nn.functional.avg_pool2d(whole, 2), atol=1e-5, rtol=0)
    with pytest.raises(DataError, match=r"a\.png has 128×96 pixels, too few for center_crop_size 100"):
        read_image(tmp_path / "a.png", center_crop_size=100)


def test_missing_empty_and_other_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.png does not exist"):
        read_image(tmp_path / "none.png")
    (tmp_path / "empty.png").touch()
    with pytest.raises(DataError, match=r"empty\.png is empty \(0 bytes\)"):
        read_image(tmp_path / "empty.png")
    (tmp_path / "text.png").write_text("id,path\n1,a.png\n")
    with pytest.raises(DataError, match=r"text\.png is not an image"):
        read_image(tmp_path / "text.png")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(DataError, match=r"folder\.png does not exist or is not a file"):
        read_image(tmp_path / "folder.png")


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "bmp", "webp"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_truncated_files_are_named(tmp_path: Path, suffix: str, share: float) -> None:
    buffer = io.BytesIO()
    Image.fromarray(RETINA).save(buffer, format={"jpg": "jpeg", "tif": "tiff"}.get(suffix, suffix))
    path = tmp_path / f"cut.{suffix}"
    path.write_bytes(buffer.getvalue()[: int(len(buffer.getvalue()) * share)])
    with pytest.raises(DataError, match=rf"cut\.{suffix}"):
        read_image(path)


def test_truncated_16_bit_colour_png_is_named(tmp_path: Path) -> None:
    content = png(wide(3), 16, 2)
    (tmp_path / "cut.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"cut\.png cannot be decoded"):
        read_image(tmp_path / "cut.png")


@pytest.mark.parametrize("side", [12_000, 60_000])
def test_decompression_bomb_is_refused_by_its_header(tmp_path: Path, side: int) -> None:
    honest = png(np.zeros((1, 1), np.uint8), 8, 0)
    header = struct.pack(">IIBBBBB", side, side * 2, 8, 0, 0, 0, 0)
    bomb = honest[:16] + header + struct.pack(">I", zlib.crc32(b"IHDR" + header)) + honest[33:]
    (tmp_path / "bomb.png").write_bytes(bomb)
    with pytest.raises(DataError, match=r"bomb\.png claims to be too large"):
        read_image(tmp_path / "bomb.png")
    with pytest.raises(DataError, match="limit is 178956970 pixels"):
        image_size_in_file(tmp_path / "bomb.png")


def test_large_honest_images_are_read_without_a_warning(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    Image.new("1", (10_000, 9_500)).save(tmp_path / "large.png")
    assert image_size_in_file(tmp_path / "large.png") == (10_000, 9_500)
    assert not recwarn.list


def test_numbers_without_a_range_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match=r"a\.tif stores its pixels as 'F'"):
        read_image(tmp_path / "a.tif")
