"""One clip: decoded samples, their rate, and a digest that names the recording.

Conventions
-----------
Samples have shape `(channels, frames)`. A PCM clip keeps the decoded integers as int32,
left-justified (a 16-bit sample s is stored as s·2^16), so that no rounding stands between the file
and its digest, and so that WAV and FLAC of one recording are the same clip. Everything else
(float-encoded WAV, Vorbis, MP3, µ-law, ...) is float64. Full scale is 1.0; rates are in hertz.

A clip that cannot be trusted is refused with one `InputError` line and never repaired: a certificate
is about the decoded samples, so a silently shortened file would certify another clip than the one
that its name promises. What libsndfile mends by itself (a WAV that ends before its header says) is
therefore checked here. Not checked: rarer containers; a cut MP3 without a length header.
"""

from __future__ import annotations

import hashlib
import operator
import os
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .containers import STREAMED_SIZE, declared_audio, ogg_ends
from .errors import ConfigError, InputError
from .spaces import Space

if TYPE_CHECKING:
    import soundfile
    import torch

# Left-justified int32 divided by this is full scale; a power of two, so the division is exact.
_INT32_SCALE = 2.0**-31

_PCM_BITS = {
    "PCM_S8": 8,
    "PCM_U8": 8,
    "PCM_16": 16,
    "PCM_24": 24,
    "PCM_32": 32,
    "ALAC_16": 16,
    "ALAC_20": 20,
    "ALAC_24": 24,
    "ALAC_32": 32,
}

# libsndfile says this many frames when a header leaves the length open (a FLAC from a pipe).
_UNKNOWN_FRAMES = 2**62

# An MP3 without a length header has an estimated one, off by a frame or two (1152 samples each).
_MP3_SLACK = 2 * 1152


def _limit(name: str, usual: float) -> Any:
    """A field whose default is the environment's, as `$SOUNDCERT_MAX_SECONDS`, or else the usual one."""
    variable = f"SOUNDCERT_{name.upper()}"

    def default() -> float:
        text = os.environ.get(variable)
        try:
            value = type(usual)(text) if text else usual
        except ValueError:
            value = -1
        if not 0 < value < float("inf"):
            kind = "a whole number" if isinstance(usual, int) else "a number"
            raise ConfigError(f"${variable} must be {kind} above 0, got {text!r}")
        return value

    return field(default_factory=default)


@dataclass(frozen=True)
class Limits:
    """What `load_clip` accepts, and how long a list of clips may be.

    A header is checked before anything is decoded. `max_bytes` bounds both the file and its decoded samples: a few
    kilobytes of FLAC can hold hours of silence in 64 channels. The defaults are those of the environment
    (`SOUNDCERT_MAX_SECONDS` and so on): whoever runs soundcert sets them, and never a config that came with the
    recordings.
    """

    max_seconds: float = _limit("max_seconds", 600.0)
    max_channels: int = _limit("max_channels", 64)
    min_rate: int = _limit("min_rate", 100)
    max_rate: int = _limit("max_rate", 768_000)
    max_bytes: int = _limit("max_bytes", 2**28)
    max_list_bytes: int = _limit("max_list_bytes", 2**26)


@dataclass(frozen=True, eq=False, repr=False)
class Clip:
    """Decoded samples of one recording. Made by `load_clip` or `Clip.from_array`.

    `samples` is read-only, int32 for PCM and float64 otherwise, `(channels, frames)`. `name` is how
    the data list calls the clip. `bits` is the PCM bit depth, `None` for float-encoded clips. `cut` says how it was
    cut out of a longer recording, if it was.

    Shape: `tensor()` gives `(frames,)` for one channel, `(channels, frames)` for more.
    """

    samples: np.ndarray
    rate: int
    name: str
    bits: int | None = None
    path: str | None = None
    cut: str | None = None

    def __post_init__(self) -> None:
        samples = self.samples
        if samples.ndim != 2 or samples.dtype not in (np.int32, np.float64):
            raise InputError(
                f"{self.name!r}: expected int32 or float64 samples of shape (channels, frames), got "
                f"{samples.dtype} of shape {samples.shape}; use Clip.from_array"
            )
        if samples.size == 0:
            raise InputError(f"{self.name!r}: expected at least one sample, got shape {samples.shape}")
        if (samples.dtype == np.int32) != (self.bits is not None):
            raise InputError(
                f"{self.name!r}: expected bits with int32 samples only, got bits={self.bits} with "
                f"{samples.dtype}"
            )
        if self.bits is not None and not 1 <= self.bits <= 32:
            raise InputError(f"{self.name!r}: expected 1 to 32 bits, got {self.bits}")
        if samples.dtype == np.float64:
            _require_finite(samples, self.name)
        # The digest is cached, so the samples must not change under it.
        samples = samples.view()
        samples.flags.writeable = False
        object.__setattr__(self, "samples", samples)

    @classmethod
    def from_array(cls, array: np.ndarray | torch.Tensor, rate: int, name: str = "array") -> Clip:
        """Make a clip from samples in memory, a copy of them.

        Shape: `(frames,)` or `(channels, frames)`.

        uint8 (offset binary, as in WAV), int8, int16 and int32 are PCM of that many bits, and agree
        with the file of the same integers; floating point is kept as float64, full scale 1.0.
        """
        values = _as_numpy(array)
        if values.ndim == 1:
            values = values[None, :]
        if values.ndim != 2:
            raise InputError(
                f"{name!r}: expected an array of shape (frames,) or (channels, frames), got {values.shape}"
            )
        limits = Limits()
        if values.shape[0] > limits.max_channels:
            raise InputError(
                f"{name!r}: expected (channels, frames) with at most {limits.max_channels} channels, got "
                f"{values.shape}; transpose it if the frames come first"
            )
        samples, bits = _to_samples(values, name)
        return cls(samples, _checked_rate(rate, name, limits), name, bits)

    @property
    def channels(self) -> int:
        return int(self.samples.shape[0])

    @property
    def frames(self) -> int:
        return int(self.samples.shape[1])

    @property
    def seconds(self) -> float:
        return self.frames / self.rate

    @property
    def lsb(self) -> float:
        """One quantisation step in full-scale units, 2^-(bits-1).

        A float-encoded clip has no step of its own; 2^-15 stands in for it, the step of the 16-bit
        file that it would usually be saved as.
        """
        return 2.0 ** -((self.bits or 16) - 1)

    @property
    def pcm_step(self) -> float | None:
        """The step that every sample of every file of this format is a whole multiple of; None for floats."""
        return None if self.bits is None else self.lsb

    @property
    def exact(self) -> bool:
        """Whether every clip of this format is exact in float32: integers of 24 bits at most."""
        return self.bits is not None and self.bits <= 24

    @property
    def space(self) -> Space:
        """The space of the file's samples, where every transport ends."""
        shape = (self.frames,) if self.channels == 1 else (self.channels, self.frames)
        return Space("file", "waveform", shape, self.rate, cut=self.cut)

    @cached_property
    def digest(self) -> str:
        """Name of the recording: 32 hexadecimal digits, BLAKE2b-128.

        Over a domain tag, the encoding kind (PCM or float), the rate, the channel count, and the
        samples, channel after channel, little-endian: int32 left-justified for PCM, so that neither
        the container nor the bit depth enters; float64 otherwise. Lossy files hash what the decoder
        returned, which another decoder version may change in the last place.
        """
        pcm = self.bits is not None
        digest = hashlib.blake2b(digest_size=16)
        digest.update(b"soundcert clip 1\0" + (b"pcm\0" if pcm else b"float\0"))
        digest.update(struct.pack("<QQ", self.rate, self.channels))
        digest.update(np.ascontiguousarray(self.samples, dtype="<i4" if pcm else "<f8").data)
        return digest.hexdigest()

    def tensor(self, dtype: torch.dtype | None = None) -> torch.Tensor:
        """The samples in full-scale units, a fresh tensor; float64 by default, and then exact.

        Shape: `(frames,)` for one channel, else `(channels, frames)`.
        """
        import torch

        scale = 1.0 if self.bits is None else _INT32_SCALE
        values = torch.from_numpy(self.samples * scale).to(dtype or torch.float64)
        return values[0] if self.channels == 1 else values

    def __repr__(self) -> str:
        kind = "float" if self.bits is None else f"{self.bits}-bit"
        return f"<Clip {self.name!r}: {self.channels} × {self.frames} samples, {self.rate} Hz, {kind}>"


def a_clip(given: object) -> Clip:
    """Return a clip as it is; InputError for anything else."""
    if not isinstance(given, Clip):
        raise InputError(
            f"expected a Clip, got a {type(given).__name__}: load_clip(path) reads one, Clip.from_array(samples, rate) "
            "makes one; a list of them is taken by audit alone"
        )
    return given


def load_clip(path: str | os.PathLike[str], *, name: str | None = None, limits: Limits | None = None) -> Clip:
    """Decode one audio file (WAV, FLAC, Ogg, MP3, AIFF, AU, ...: what libsndfile reads).

    `name` is the file's name unless the data list calls it otherwise. Raises `InputError`, one line,
    for whatever is wrong with the file.
    """
    with _opened(path, name, limits or Limits(), whole=True) as (file, text, title):
        samples = _read(file)
        _require_all(file, len(samples), title)
        return Clip(
            np.ascontiguousarray(samples.T), file.samplerate, title, _PCM_BITS.get(file.subtype), text
        )


def load_part(
    path: str | os.PathLike[str],
    start: int,
    frames: int,
    *,
    name: str | None = None,
    cut: str | None = None,
    limits: Limits | None = None,
) -> Clip:
    """Decode `frames` frames of a file from frame `start` on: exactly those of the whole recording.

    Where samples are stored as they are, and in FLAC, only the part is read, so that a recording may be longer
    than `limits` allow a clip to be. Of lossy files, which cannot be entered anywhere alike, all is decoded.
    """
    limits = limits or Limits()
    with _opened(path, name, limits, whole=False) as (file, text, title):
        rate, bits = file.samplerate, _PCM_BITS.get(file.subtype)
        _check_size(frames, file.channels, rate, file.subtype, title, limits)
        if _seekable(file):
            file.seek(min(start, file.frames))
            samples = _read(file, frames)
        else:
            status = os.stat(text)
            samples = _decoded(text, status.st_size, status.st_mtime_ns)[start : start + frames]
        if len(samples) < frames:
            raise InputError(
                f"{title!r}: truncated: expected {frames} frames from frame {start} on, got {len(samples)}; "
                "fetch or export it again"
            )
        return Clip(np.ascontiguousarray(samples.T), rate, title, bits, text, cut)


def length_of(
    path: str | os.PathLike[str], *, name: str | None = None, limits: Limits | None = None
) -> tuple[int, int]:
    """Return a file's frames and rate: from its header where that is exact, else by decoding it."""
    with _opened(path, name, limits or Limits(), whole=False) as (file, text, _):
        if _seekable(file):
            return file.frames, file.samplerate
        status = os.stat(text)
        return len(_decoded(text, status.st_size, status.st_mtime_ns)), file.samplerate


@contextmanager
def _opened(
    path: str | os.PathLike[str], name: str | None, limits: Limits, *, whole: bool
) -> Iterator[tuple[soundfile.SoundFile, str, str]]:
    """Open a file whose header is in order; what fails inside becomes one InputError.

    whole: whether all of it is to be decoded, so that its length has to be within the limits.
    """
    import soundfile

    text = os.fspath(path)
    name = Path(text).name if name is None else name
    size = _regular_file_size(text, name, limits if whole else replace(limits, max_bytes=2**62))
    try:
        before = os.stat(text)
        # Bytes keep file names that are not valid UTF-8 intact.
        with soundfile.SoundFile(os.fsencode(text) if os.name == "posix" else text) as file:
            _check_header(file, name, limits)
            if whole or not _seekable(file):
                _check_size(file.frames, file.channels, file.samplerate, file.subtype, name, limits)
            _check_whole(text, size, name, file)
            yield file, text, name
        after = os.stat(text)
        if (before.st_ino, before.st_size, before.st_mtime_ns) != (
            after.st_ino,
            after.st_size,
            after.st_mtime_ns,
        ):
            raise InputError(
                f"{name!r}: expected a file at rest, but it changed while it was read; try again"
            )
    except soundfile.LibsndfileError as error:
        # The library's own text begins with the path, and may end in a line break.
        reason = " ".join(str(error.error_string).split()).removeprefix("Error : ").rstrip(".")
        raise InputError(
            f"{name!r}: expected a whole audio file, but libsndfile cannot decode it ({reason}); it is "
            "truncated, damaged or not audio: replace it, or convert it to WAV or FLAC"
        ) from None
    except InputError:
        raise
    except TypeError:
        # Asked of files named .raw, which libsndfile takes for bare samples.
        raise InputError(f"{name!r}: expected an audio file with a header, got raw samples") from None
    except (ValueError, RuntimeError, OSError) as error:
        raise InputError(f"{name!r}: expected a readable audio file, got {error}; replace it") from None


def _read(file: soundfile.SoundFile, frames: int = -1) -> np.ndarray:
    """Samples `(frames, channels)`: int32 of PCM, float64 of everything else."""
    dtype = "float64" if file.subtype not in _PCM_BITS else "int32"
    samples: np.ndarray = file.read(frames, dtype=dtype, always_2d=True)
    return samples


def _require_all(file: soundfile.SoundFile, got: int, name: str) -> None:
    expected = file.frames - (_MP3_SLACK if file.format == "MP3" else 0)
    if got < expected:
        raise InputError(
            f"{name!r}: truncated: expected {file.frames} frames from its header, got {got}; "
            "fetch or export it again"
        )


def _seekable(file: soundfile.SoundFile) -> bool:
    """Whether reading from the middle gives the samples that reading from the start would."""
    return file.subtype in _PCM_BITS or file.subtype in ("FLOAT", "DOUBLE")


@lru_cache(maxsize=1)
def _decoded(path: str, *_of_state: int) -> np.ndarray:
    """All samples of a lossy file `(frames, channels)`; the last one is kept, for its next part.

    _of_state: its size and time of change, so that another file under its name is read anew.
    """
    import soundfile

    with soundfile.SoundFile(os.fsencode(path) if os.name == "posix" else path) as file:
        samples = _read(file)
        _require_all(file, len(samples), Path(path).name)
    samples.flags.writeable = False
    return samples


def _regular_file_size(path: str, name: str, limits: Limits) -> int:
    """Size in bytes. Asked before opening, because opening a pipe would wait for ever."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        raise InputError(f"{name!r}: expected an audio file, but there is no file {path!r}") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"{name!r}: expected an audio file, but {path!r} cannot be opened: {reason}"
        ) from None
    if stat.S_ISDIR(status.st_mode):
        raise InputError(f"{name!r}: expected an audio file, got a folder; name a file in it")
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{name!r}: expected a regular file, got a pipe or a device; save it to a file")
    if status.st_size == 0:
        raise InputError(f"{name!r}: expected an audio file, got an empty one (0 bytes); fetch it again")
    if status.st_size > limits.max_bytes:
        raise InputError(
            f"{name!r}: expected at most {limits.max_bytes} bytes, got {status.st_size}; "
            "cut it, or raise $SOUNDCERT_MAX_BYTES"
        )
    return status.st_size


def _check_header(file: soundfile.SoundFile, name: str, limits: Limits) -> None:
    """Refuse from the header what would be too much to decode."""
    _checked_rate(file.samplerate, name, limits)
    if file.frames >= _UNKNOWN_FRAMES:
        raise InputError(
            f"{name!r}: expected a header with the clip's length, got one without; encode it again"
        )
    if file.frames <= 0:
        raise InputError(
            f"{name!r}: expected at least one frame, but its header announces none (empty, or never "
            "closed by the recorder); export it again"
        )
    if file.channels > limits.max_channels:
        raise InputError(
            f"{name!r}: expected at most {limits.max_channels} channels, got {file.channels}; "
            "split it, or raise $SOUNDCERT_MAX_CHANNELS"
        )


def _check_size(frames: int, channels: int, rate: int, subtype: str, name: str, limits: Limits) -> None:
    """Refuse more samples than are to be decoded at once."""
    seconds = frames / rate
    if seconds > limits.max_seconds:
        raise InputError(
            f"{name!r}: expected at most {limits.max_seconds:g} s, got {seconds:.1f} s; "
            "cut it, or raise $SOUNDCERT_MAX_SECONDS"
        )
    decoded = frames * channels * (4 if subtype in _PCM_BITS else 8)
    if decoded > limits.max_bytes:
        raise InputError(
            f"{name!r}: expected at most {limits.max_bytes} bytes of decoded samples, got {decoded}; "
            "cut it, or raise $SOUNDCERT_MAX_BYTES"
        )


def _checked_rate(rate: Any, name: str, limits: Limits) -> int:
    try:
        number = operator.index(rate)
    except TypeError:
        raise InputError(f"{name!r}: expected the rate as a whole number of hertz, got {rate!r}") from None
    if not limits.min_rate <= number <= limits.max_rate:
        raise InputError(
            f"{name!r}: expected a rate of {limits.min_rate} to {limits.max_rate} Hz, got {number}; "
            "resample it, or set $SOUNDCERT_MIN_RATE and $SOUNDCERT_MAX_RATE"
        )
    return number


def _check_whole(path: str, size: int, name: str, opened: soundfile.SoundFile) -> None:
    """Refuse what libsndfile would shorten without a word: a WAV, AIFF, AU, CAF or Ogg file cut short, or not yet whole.

    A writer that can seek leaves 0 as the length until it has finished.
    """
    with open(path, "rb") as file:
        found = declared_audio(file)
        if not ogg_ends(file, size):
            raise InputError(f"{name!r}: truncated: expected the last page of its Ogg stream; fetch it again")
    if found is None:
        return
    start, declared = found
    held = size - start
    if declared > held and declared != STREAMED_SIZE:
        raise InputError(
            f"{name!r}: truncated: expected {declared} bytes of audio from its header, got {held}; "
            "fetch or export it again"
        )
    # ALAC's samples are integers, but what the header counts is compressed: noise may take more than it does as PCM.
    packed = opened.subtype.startswith("ALAC")
    frame = 0 if packed else _PCM_BITS.get(opened.subtype, 0) // 8 * opened.channels
    # Up to 8 bytes of a chunk stand before its samples (AIFF's offset and block size, CAF's count of edits).
    more = frame and held >= declared >= (opened.frames + 1) * frame + 8
    if declared == 0 < held or more:
        raise InputError(
            f"{name!r}: unfinished: expected a file whose writer has ended, got a header that gives {declared} bytes of "
            f"audio and {opened.frames} frames; wait for the writer, or export it again"
        )


def _as_numpy(array: Any) -> np.ndarray:
    if hasattr(array, "detach"):
        import torch

        tensor = array.detach().cpu()
        # numpy has no bfloat16; float32 holds every one of its values.
        return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()  # type: ignore[no-any-return]
    return np.asarray(array)


def _to_samples(values: np.ndarray, name: str) -> tuple[np.ndarray, int | None]:
    """Left-justified int32 with its bits, or float64 with `None`; always a copy."""
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    if values.dtype == np.uint8:
        return (values.astype(np.int32) - 128) << 24, 8
    if values.dtype in (np.int8, np.int16, np.int32):
        bits = values.dtype.itemsize * 8
        return np.array(values, dtype=np.int32, order="C") << (32 - bits), bits
    if values.dtype in (np.float16, np.float32, np.float64):
        return np.array(values, dtype=np.float64, order="C"), None
    raise InputError(
        f"{name!r}: expected uint8, int8, int16, int32 or floating-point samples, got "
        f"{values.dtype}; convert them"
    )


def _require_finite(samples: np.ndarray, name: str) -> None:
    bad = ~np.isfinite(samples)
    count = int(bad.sum())
    if count:
        frame = int(bad.any(axis=0).argmax())
        raise InputError(
            f"{name!r}: expected finite samples, got {count} NaN or infinite of {samples.size}, the first at "
            f"frame {frame}; repair or leave out the file"
        )
