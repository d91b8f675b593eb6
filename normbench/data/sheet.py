"""A sheet of sample images, to see what is trained on."""

import io

from normbench.data.batches import Split

COLUMNS, ROWS = 8, 4


def sample_sheet(split: Split) -> bytes:
    """The first 32 images, 8 in a row, with white lines between, as a JPEG file."""
    from PIL import Image

    height, width = split.size
    sheet = Image.new("RGB", (COLUMNS * (width + 1) - 1, ROWS * (height + 1) - 1), "white")
    inner = slice(split.pad, split.pad + height), slice(split.pad, split.pad + width)
    for number, pixels in enumerate(split.pixels[: COLUMNS * ROWS].cpu()):
        row, column = divmod(number, COLUMNS)
        place = column * (width + 1), row * (height + 1)
        sheet.paste(Image.fromarray(pixels[inner].numpy()), place)
    file = io.BytesIO()
    sheet.save(file, "JPEG", quality=90)
    return file.getvalue()
