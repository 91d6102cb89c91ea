"""Tokens to bytes and back by a range coder under integer tables, and the file that holds them.

N tokens, K stages or groups, V codes. A table gives each code a whole number of 2^22 parts, never zero: encoder and decoder
share integers, not floats, so a file decodes on any machine. A `.tok` file is, little endian:

    "TOKB" | version, 1 byte | tokenizer, 8 | height, 4 | width, 4 | words of the range coder | CRC-32 of all before, 4

CRC-32 finds every change of up to 32 bits in a row, hence of any one byte.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import constriction
import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from tokbench.metrics.codes import code_counts

TABLE_TOTAL = 2**22
MOST_CODES = 2**20
MAGIC, FORMAT = b"TOKB", 1
_HEAD = struct.Struct("<4sB8sII")
HEADER_BYTES = _HEAD.size + 4  # with the checksum

Integers = NDArray[np.int64]
RangeEncoder = constriction.stream.queue.RangeEncoder
RangeDecoder = constriction.stream.queue.RangeDecoder
Categorical = constriction.stream.model.Categorical


def integer_table(weights: ArrayLike) -> Integers:
    """(..., V) int64 >= 1 that sum to 2^22, in proportion to weights (..., V) >= 0: counts or probabilities.

    Each code has one part, the rest is shared by weight, rounded down; what that leaves goes to the likeliest code.
    """
    given = np.asarray(weights, dtype=np.float64)
    size = given.shape[-1]
    if not 2 <= size <= MOST_CODES:
        raise ValueError(f"a table must have 2 to {MOST_CODES} codes, got {size}")
    total = given.sum(axis=-1, keepdims=True)
    if not np.isfinite(given).all() or (given < 0).any() or (total <= 0).any():
        raise ValueError("weights must be finite, >= 0 and not all zero")
    table = np.floor(given * ((TABLE_TOTAL - size) / total)).astype(np.int64) + 1
    likeliest = given.argmax(axis=-1, keepdims=True)
    left = TABLE_TOTAL - table.sum(axis=-1, keepdims=True)
    np.put_along_axis(table, likeliest, np.take_along_axis(table, likeliest, -1) + left, -1)
    return table


def fit_tables(indices: Tensor, codebook_sizes: Sequence[int]) -> tuple[Integers, ...]:
    """The integer table of each codebook from indices (M, N) or (M, N, K) of the training split."""
    columns = indices.flatten(0, 1).reshape(-1, len(codebook_sizes)).unbind(1)
    counts = (code_counts(own, size) for own, size in zip(columns, codebook_sizes, strict=True))
    return tuple(integer_table(own.cpu().numpy()) for own in counts)


def ideal_bits(indices: Integers, tables: Sequence[Integers]) -> float:
    """-log2 of the probability of indices (N, K) under K tables (V_k,): what the coder's output comes to."""
    return float(sum(-np.log2(t[column] / TABLE_TOTAL).sum() for t, column in zip(tables, indices.T, strict=True)))


def encode_tokens(indices: Integers, tables: Sequence[Integers]) -> bytes:
    """The range coder's words for indices (N, K), stage by stage, under K tables (V_k,) of `integer_table`."""
    if indices.ndim != 2 or indices.shape[1] != len(tables):
        raise ValueError(f"indices must be (N, {len(tables)}), got {indices.shape}")
    encoder = RangeEncoder()
    for table, column in zip(tables, indices.T, strict=True):
        if len(column) and not 0 <= column.min() <= column.max() < len(table):
            raise ValueError(f"indices must be in [0, {len(table)}), got {column.min()} to {column.max()}")
        encoder.encode(np.ascontiguousarray(column, dtype=np.int32), _model(table))
    return words_to_bytes(encoder.get_compressed())


def decode_tokens(data: bytes, tables: Sequence[Integers], num_tokens: int) -> Integers:
    """(N, K) int64 that `encode_tokens` wrote; ValueError where the bytes cannot hold just so many tokens."""
    if len(data) % 4:
        raise ValueError(f"coded tokens must be whole words of 4 bytes, got {len(data)} bytes")
    decoder = RangeDecoder(np.frombuffer(data, dtype="<u4").astype(np.uint32))
    try:
        columns = [decoder.decode(_model(table), num_tokens) for table in tables]
    except AssertionError as error:  # what the coder raises on words that no encoder writes
        raise ValueError(f"coded tokens do not fit the tables: {error}") from None
    found = np.stack(columns, axis=1).astype(np.int64)
    if encode_tokens(found, tables) != data:  # words of zeros after the last are silent to the decoder
        raise ValueError(f"coded tokens must end after {num_tokens} tokens, got other bytes than they are written in")
    return found


def words_to_bytes(words: NDArray[np.uint32]) -> bytes:
    """The coder's words, little endian."""
    return words.astype("<u4").tobytes()


def _model(table: Integers) -> Any:
    if len(table) < 2 or table.min() < 1 or table.sum() != TABLE_TOTAL:
        raise ValueError(f"a table must hold at least 2 whole numbers >= 1 that sum to {TABLE_TOTAL}, got {table}")
    return Categorical(table.astype(np.float64), perfect=False)


@dataclass(frozen=True)
class TokenFile:
    """What a `.tok` file holds."""

    tokenizer: str  # 16 hexadecimal digits
    height: int  # of the image, in pixels, before any padding
    width: int
    payload: bytes  # of `encode_tokens`

    def pack(self) -> bytes:
        """The whole file."""
        sides = self.height, self.width
        body = _HEAD.pack(MAGIC, FORMAT, bytes.fromhex(self.tokenizer), *sides) + self.payload
        return body + struct.pack("<I", zlib.crc32(body))


def unpack(data: bytes) -> TokenFile:
    """The parts of a `.tok` file; ValueError says what is wrong with one that was cut, altered, or is something else."""
    if len(data) < HEADER_BYTES or data[:4] != MAGIC:
        raise ValueError(f"not a whole .tok file: it must have {HEADER_BYTES} bytes or more and begin with TOKB")
    if struct.unpack("<I", data[-4:])[0] != zlib.crc32(data[:-4]):
        raise ValueError("truncated or altered: its checksum does not match")
    _, version, tokenizer, height, width = _HEAD.unpack_from(data)
    if version != FORMAT:
        raise ValueError(f"format {version} is not known, this is a reader of format {FORMAT}")
    if not height or not width:
        raise ValueError(f"height and width must be >= 1, got {height} and {width}")
    return TokenFile(tokenizer.hex(), height, width, data[_HEAD.size : -4])
