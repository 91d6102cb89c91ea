"""The published claims that the suite was built around, by number: what each says, whose it is, and what it takes to test.

`needs` is the smallest machine and time for a fair test where no experiment here decides the claim: an estimate, not a measure.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """One claim as published; `needs` is read only where the records say nothing."""

    source: str
    text: str
    needs: str


_CPU = "two cores, about an hour"
_GPU = "one GPU, about an hour"
_GPUS = "one GPU, several hours"
_REFERENCE = "billions of parameters and weeks of many GPUs: a reference, not to be rerun"

CATALOGUE: dict[str, Entry] = {
    "C1": Entry(
        "kexue.fm/archives/9984", "a discrete image needs N log2 V >= H bits; published tokenizers have far fewer", _CPU
    ),
    "C2": Entry("kexue.fm/archives/9984", "bits grow with the number of tokens N, only logarithmically with V", _CPU),
    "C3": Entry("kexue.fm/archives/9984; arXiv:2405.09818", "discrete tokens lose the text in images first", _CPU),
    "C4": Entry(
        "kexue.fm/archives/9984", "VQ does no harm to understanding only where N is near the number of pixels", _GPU
    ),
    "C5": Entry("arXiv:2309.15505", "below 2^10 codes VQ is slightly better than FSQ, above it FSQ is", _CPU),
    "C6": Entry("arXiv:2309.15505, A.4.1", "FSQ levels below five are worse at equal V", _CPU),
    "C7": Entry("arXiv:2309.15505", "FSQ and a well trained VQ serve dense prediction equally", _GPUS),
    "C8": Entry("kexue.fm/archives/9826", "FSQ wins only where encoder and decoder are strong", _CPU),
    "C9": Entry("kexue.fm/archives/9826", "plain VQ collapses: a larger codebook ends up worse", _CPU),
    "C10": Entry("arXiv:2410.06424", "the rotation trick improves usage and reconstruction", _CPU),
    "C11": Entry(
        "kexue.fm/archives/10489", "where codes are much shorter than latents the rotation trick is worse", _CPU
    ),
    "C12": Entry(
        "kexue.fm/archives/10489", "the rotation trick depends on the origin, straight-through does not", _CPU
    ),
    "C13": Entry("arXiv:2307.08041", "causal 1-D tokens are easier to predict, and lose more detail", _CPU),
    "C14": Entry(
        "arXiv:2408.11039",
        "diffusion on continuous tokens needs fewer FLOPs than next-token prediction of codes",
        _GPUS,
    ),
    "C15": Entry("arXiv:2408.11039", "images tax the text loss, and the norm recipe alone taxes it as much", _GPU),
    "C16": Entry("arXiv:2408.11039", "attention both ways inside the image improves generation", _GPU),
    "C17": Entry("arXiv:2408.11039", "U-Net patch layers beat linear ones beyond their parameters", _GPUS),
    "C18": Entry("arXiv:2408.11039", "larger patches cost quality with linear layers, little with a U-Net", _GPUS),
    "C19": Entry("arXiv:2408.11039", "a noise cap for images before their caption improves captions", _GPU),
    "C20": Entry("arXiv:2408.11039", "a 7B model on 2T tokens matches image and text systems", _REFERENCE),
    "C21": Entry("arXiv:2405.09818", "a joint vocabulary diverges without QK-norm and z-loss", _GPU),
    "C22": Entry(
        "kexue.fm/archives/9984", "tokens encoded image by image hide small differences between two images", _GPU
    ),
    "C23": Entry("kexue.fm/archives/9984", "raw patches converge five to ten times more slowly than a U-Net", _GPUS),
    "C24": Entry(
        "arXiv:2406.11838", "a diffusion head equals cross entropy in raster order and wins in masked order", _GPUS
    ),
    "C25": Entry(
        "kexue.fm/archives/10197, 10007",
        "an L2 head fails where the density has several modes; Fourier beats mixtures",
        _CPU,
    ),
    "C26": Entry(
        "arXiv:2212.09748; arXiv:2209.12152", "adaLN-zero against a time token: the two papers disagree", _GPUS
    ),
    "C27": Entry("kexue.fm/archives/10197", "predicting x0 or eps has less variance than predicting x_(t-1)", _CPU),
    "C28": Entry("arXiv:2406.11838", "the order of tokens matters to a finite model", _GPU),
    "C29": Entry(
        "arXiv:2309.15505", "more codes reconstruct better and are harder to predict: there is a best V", _CPU
    ),
    "C30": Entry("kexue.fm/archives/9984", "a generation loss helps understanding", _GPU),
    "C31": Entry("kexue.fm/archives/9984", "ten steps of a fast sampler are enough", _GPU),
    "C32": Entry(
        "arXiv:2408.12528", "masked decoding needs about twenty times fewer steps than next-token decoding", _CPU
    ),
    "C33": Entry("arXiv:2406.11838", "the diffusion head takes a tenth of the time of generation", _GPU),
    "C34": Entry(
        "kexue.fm/archives/9984", "modelling every sub-pixel is unaffordable: 196,608 steps at 256 x 256", _CPU
    ),
    "C35": Entry("arXiv:2402.15170", "weaker long skips improve few-step sampling", _GPUS),
    "C36": Entry("kexue.fm/archives/10040", "2-D positions help where the shape of images changes", _CPU),
    "C37": Entry("kexue.fm/archives/10352", "equivalence and symmetry of positions matter only in extreme cases", _CPU),
    "C38": Entry("arXiv:2301.11093", "the noise schedule must shift with resolution", _CPU),
    "C39": Entry("kexue.fm/archives/10122", "quality is flat in RoPE's base above a bound and falls below it", _CPU),
    "C40": Entry(
        "kexue.fm/archives/10047", "a distance on features that a tokenizer was trained on flatters it", _GPUS
    ),
}
