import pytest
import torch

from tokbench.backbone.sequence import (
    BOI,
    BOS,
    EOI,
    EOS,
    IGNORE,
    arrange,
    attention_mask,
    draw_rows,
    encode_text,
    interleave,
    prompt,
)
from tokbench.interfaces import TokenBatch

N = 3
IMAGE = -1


def _rows(captions, image_first):
    text, lengths = encode_text(captions)
    return arrange(text, lengths, torch.tensor(image_first), N)


def _shown(rows, row):
    tokens = rows.tokens[row].clone()
    tokens[rows.image_places[row]] = IMAGE
    return tokens.tolist()


def test_text_is_utf8_bytes_padded_on_the_right():
    text, lengths = encode_text(["ab", "", "é!"])
    assert text.tolist() == [[97, 98, 0], [0, 0, 0], [195, 169, 33]]
    assert lengths.tolist() == [2, 0, 3]
    assert text.dtype == lengths.dtype == torch.int64
    assert encode_text([])[0].shape == (0, 0)
    assert encode_text(["", ""])[0].shape == (2, 0)


def test_both_orders_stand_in_one_batch():
    rows = _rows(["ab", "c", ""], [False, True, True])
    image = [IMAGE] * N
    assert _shown(rows, 0) == [BOS, 97, 98, BOI, *image, EOI, EOS]
    assert _shown(rows, 1) == [BOS, BOI, *image, EOI, 99, EOS, EOS]
    assert _shown(rows, 2) == [BOS, BOI, *image, EOI, EOS, EOS, EOS]
    assert rows.image_start.tolist() == [4, 2, 2]
    assert rows.image_ids.sum(dim=1).tolist() == [N] * 3


def test_targets_leave_out_what_is_forced_and_the_padding():
    rows = _rows(["ab", "c"], [False, True])
    skip = IGNORE
    assert rows.targets[0].tolist() == [97, 98, BOI, skip, skip, skip, skip, EOS, skip]
    assert rows.targets[1].tolist() == [BOI, skip, skip, skip, skip, 99, EOS, skip, skip]
    assert rows.caption_targets[1].tolist() == [skip] * 5 + [99, EOS, skip, skip]


def test_padding_bytes_do_not_matter():
    text, lengths = encode_text(["abc", "d"])
    other = text.clone()
    other[1, 1:] = 77
    first = torch.tensor([False, False])
    a, b = (arrange(t, lengths, first, N) for t in (text, other))
    assert torch.equal(a.tokens, b.tokens)
    assert torch.equal(a.targets, b.targets)


def test_empty_captions_alone_make_rows():
    rows = _rows(["", ""], [False, True])
    image = [IMAGE] * N
    assert _shown(rows, 0) == [BOS, BOI, *image, EOI, EOS]
    assert _shown(rows, 1) == [BOS, BOI, *image, EOI, EOS]


def test_a_prompt_ends_in_boi_and_drops_unused_columns():
    text, lengths = encode_text(["ab", "", "cde"])
    tokens, ends = prompt(text[:2], lengths[:2])
    assert tokens.tolist() == [[BOS, 97, 98, BOI], [BOS, BOI, EOI, EOS]]
    assert ends.tolist() == [4, 2]


def test_the_mask_is_causal_or_same_image_and_images_never_look_ahead():
    ids = torch.tensor([[0, 1, 1, 0, 2, 2, 0]])
    mask = attention_mask(ids)[0, 0]
    for i in range(7):
        for j in range(7):
            same = ids[0, i] == ids[0, j] and ids[0, i] > 0
            assert bool(mask[i, j]) == (j <= i or bool(same)), (i, j)
    assert not mask[1:3, 4:6].any()


def test_drawn_rows_lose_captions_only_where_text_comes_first():
    text, lengths = encode_text(["abc"] * 2000)
    batch = TokenBatch(torch.zeros(2000, N, 1), None, text, lengths)
    generator = torch.Generator().manual_seed(0)
    rows, _ = draw_rows(batch, N, image_first=0.25, caption_dropout=0.4, generator=generator)
    first = rows.image_first
    said = (rows.targets < 256) & (rows.targets >= 0)
    dropped = said.sum(dim=1) == 0
    assert abs(first.float().mean() - 0.25) < 0.03
    assert abs(dropped[~first].float().mean() - 0.4) < 0.04
    assert not dropped[first].any()


def test_interleaved_rows_have_an_image_after_each_text():
    text, lengths = encode_text(["ab", "c", "", "d"])
    rows = interleave(text.view(2, 2, 2), lengths.view(2, 2), N)
    image = [IMAGE] * N
    assert _shown(rows, 0) == [BOS, 97, 98, BOI, *image, EOI, 99, BOI, *image, EOI, EOS, EOS]
    assert _shown(rows, 1) == [BOS, BOI, *image, EOI, 100, BOI, *image, EOI, EOS, EOS, EOS, EOS]
    assert rows.image_starts.tolist() == [[4, 10], [2, 8]]
    skip = [IGNORE] * (N + 1)
    assert rows.targets[1].tolist() == [BOI, *skip, 100, BOI, *skip, EOS, *[IGNORE] * 4]
    one = interleave(text[:, None], lengths[:, None], N)
    assert torch.equal(one.tokens, arrange(text, lengths, torch.zeros(4, dtype=torch.bool), N).tokens)


def test_a_batch_is_joined_two_by_two_as_often_as_it_says():
    text, lengths = encode_text(["ab", "c", "def"])
    batch = TokenBatch(
        torch.arange(3.0)[:, None, None].expand(3, N, 1), torch.arange(3)[:, None].expand(3, N), text, lengths
    )
    generator = torch.Generator().manual_seed(0)
    options = {"image_first": 0.5, "caption_dropout": 0.5, "generator": generator}
    drawn = [draw_rows(batch, N, interleaved=0.25, **options) for _ in range(400)]
    joined = [(rows, both) for rows, both in drawn if rows.image_starts.shape[1] == 2]
    assert abs(len(joined) / 400 - 0.25) < 0.06
    for rows, both in joined:  # of an odd number the last is left out
        assert both.latents[..., 0].tolist() == both.indices.tolist() == [[0] * N + [1] * N]
        assert _shown(rows, 0)[1:3] == [97, 98]
    alone = draw_rows(TokenBatch(batch.latents[:1], None, text[:1], lengths[:1]), N, interleaved=1.0, **options)
    assert alone[0].image_starts.shape == (1, 1)


def test_text_is_bytes_of_any_script_up_to_a_limit():
    text, lengths = encode_text(["\u732b", "", "a"])
    assert text.tolist() == [[0xE7, 0x8C, 0xAB], [0, 0, 0], [97, 0, 0]]
    assert lengths.tolist() == [3, 0, 1]
    encode_text(["x" * 1000])
    with pytest.raises(ValueError, match=r"captions must be <= 1000 bytes of UTF-8, got 1002 in '.+'\.\.\."):
        encode_text(["\u732b" * 334])
