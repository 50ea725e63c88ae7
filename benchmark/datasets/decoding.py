"""Pictures out of their files."""

import io

from PIL import Image


def decode(data: bytes, name: str, size: tuple[int, int] | None = None) -> Image.Image:
    """The picture as RGB.

    Args:
        data: a file in any format that Pillow knows.
        name: of the file, for messages.
        size: width and height in pixels; None takes any.

    Raises:
        OSError: unreadable, or of another size.
    """
    try:
        with Image.open(io.BytesIO(data)) as picture:
            decoded = picture.convert("RGB")
    except (OSError, ValueError, SyntaxError) as error:
        raise OSError(f"{name} must be a readable picture, got {error}; replace it") from error
    if size is not None and decoded.size != size:
        wide, high = decoded.size
        raise OSError(
            f"{name} must be {size[0]}x{size[1]} pixels, got {wide}x{high}; "
            "replace it with the official file"
        )
    return decoded
