"""Free running: the model says text and images in one sequence and decides itself where an image begins and where all ends.

BOI is what it says; EOI is forced after the N tokens of an image, as in Chameleon and Transfusion. One row at a time.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Generator, Tensor

from tokbench.backbone.attention import Cache
from tokbench.backbone.sequence import BOI, BOS, EOI, EOS, check_text
from tokbench.backbone.transformer import Backbone
from tokbench.generation.prompts import Prompt
from tokbench.heads.sampling import draw
from tokbench.interfaces import Quantized


class Painter(Protocol):
    """A scheme that paints images anywhere in a sequence: all of them."""

    backbone: Backbone

    def paint(self, prompt: Prompt, *, generator: Generator) -> Quantized:
        """The image after the prompt, whose cache is left as it was."""
        ...

    def remember(self, prompt: Prompt, z_q: Tensor) -> None:
        """Adds the image (B, N, D) to the prompt's cache."""
        ...


@torch.no_grad()
def free_run(
    scheme: Painter, text: bytes, *, most_images: int, most_bytes: int, temperature: float, generator: Generator
) -> list[bytes | Quantized]:
    """What follows BOS and `text`, pieces of text and images (1, N, ...) in turn, up to EOS or until it is as long as allowed.

    `temperature` of the text, 0 for the likeliest byte. No image is begun beyond `most_images`. ValueError where `text` is
    longer than a caption may be.
    """
    check_text([text])
    sequence = _Sequence(scheme, most_images=most_images, most_bytes=len(text) + most_bytes)
    pieces: list[bytes | Quantized] = []
    said = bytearray()
    logits = sequence.say([BOS, *text])
    for _ in range(most_bytes + most_images):
        logits[[BOS, EOI] + [BOI] * (sequence.num_images == most_images)] = -torch.inf
        token = int(draw(logits[None], temperature=temperature, top_p=1.0, generator=generator))
        if token == EOS:
            break
        if token != BOI:
            said.append(token)
            logits = sequence.say([token])
            continue
        pieces += [bytes(said)] if said else []
        said.clear()
        pieces.append(sequence.paint(generator))
        logits = sequence.say([EOI])
    return [*pieces, bytes(said)] if said else pieces


class _Sequence:
    """One row as it grows, with all of it in a cache."""

    def __init__(self, scheme: Painter, *, most_images: int, most_bytes: int) -> None:
        self.scheme, self.backbone = scheme, scheme.backbone
        height, width = self.backbone.grid
        self.num_places = height * width
        device = self.backbone.text.weight.device
        room = 1 + most_bytes + most_images * (self.num_places + 2)
        self.cache = Cache(torch.full((1,), room, device=device), 0, room)
        self.tokens = torch.empty(1, 0, dtype=torch.int64, device=device)
        self.starts = torch.empty(1, 0, dtype=torch.int64, device=device)

    @property
    def num_images(self) -> int:
        return self.starts.shape[1]

    def say(self, tokens: list[int]) -> Tensor:
        """(260,) logits of what follows these tokens."""
        return self.backbone.text_head(self._read(tokens)[1])[0].float()

    def paint(self, generator: Generator) -> Quantized:
        """BOI, and the image that follows."""
        begin = self.tokens.shape[1]
        self.starts = torch.cat((self.starts, self.starts.new_tensor([[begin + 1]])), dim=1)
        embedded, state = self._read([BOI])
        turn = self.backbone.rotation(self.starts, begin + 1 + self.num_places)
        cos, sin = (part[:, :, begin:] for part in turn)
        if getattr(self.scheme, "rereads_boi", False):
            self.cache.filled -= 1
        prompt = Prompt(self.cache, (cos, sin), embedded, state, guidance=1.0)
        found = self.scheme.paint(prompt, generator=generator)
        self.scheme.remember(prompt, found.z_q)
        inside = self.tokens.new_full((1, self.num_places), EOS)
        self.tokens = torch.cat((self.tokens, inside), dim=1)
        return found

    def _read(self, tokens: list[int]) -> tuple[Tensor, Tensor]:
        """Embedding and state (1, E) of the last of these text tokens, now read."""
        count = len(tokens)
        self.tokens = torch.cat((self.tokens, self.tokens.new_tensor([tokens])), dim=1)
        x = self.backbone.embed_text(self.tokens, self.starts)[:, -count:]
        cos, sin = (part[:, :, -count:] for part in self.backbone.rotation(self.starts, self.tokens.shape[1]))
        inside = torch.ones(count, count, dtype=torch.bool, device=x.device).tril()
        return x[:, -1], self.backbone.extend(self.cache, x, (cos, sin), inside=inside)[:, -1]
