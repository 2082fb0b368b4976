"""Marks in picture files: made by a generative process, by which model, from which pictures, with which seed.

A mark is an XMP packet (ISO 16684-1), in PNG also plain text for readers without XMP. It says nothing of the time,
so that the same picture gives the same bytes. The pixels are those of a file without it.

The kind of source is a term of IPTC's Digital Source Type vocabulary, http://cv.iptc.org/newscodes/digitalsourcetype/:
a picture whose every pixel a model drew is "created using generative AI", also where it was made from real ones, as
no part of these was copied into it; the vocabulary names inpainting as its example of "edited using generative AI".
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal
from xml.sax.saxutils import escape, quoteattr

from PIL.PngImagePlugin import PngInfo

from noiseweave import __version__
from noiseweave.engine.records import Json

Source = Literal["trainedAlgorithmicMedia", "compositeWithTrainedAlgorithmicMedia", "compositeSynthetic"]
CREATED: Source = "trainedAlgorithmicMedia"
EDITED: Source = "compositeWithTrainedAlgorithmicMedia"
MIXED: Source = "compositeSynthetic"  # of sheets: generated pictures beside others
TERMS = {
    CREATED: "created using generative AI",
    EDITED: "edited using generative AI",
    MIXED: "composite with generated pictures",
}
VOCABULARY = "http://cv.iptc.org/newscodes/digitalsourcetype/"
NAMESPACE = "urn:x-noiseweave:provenance/1.0/"
NAMESPACES = {
    "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
    "xmp": "http://ns.adobe.com/xap/1.0/",
    "Iptc4xmpExt": "http://iptc.org/std/Iptc4xmpExt/2008-02-29/",
    "noiseweave": NAMESPACE,
}
CREATOR = f"Noiseweave {__version__}"
HOLDERS = ("PNG", "JPEG", "WEBP", "TIFF")
"""Pillow's names of the formats that can hold a mark; BMP has no place for one."""
_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # in XML 1.0


@dataclass(frozen=True, kw_only=True)
class Mark:
    """What a picture file says of itself.

    Attributes:
        source: term of IPTC's vocabulary.
        model: as the user named it; of a path only the last part is written, the rest is the machine's.
        model_hash: fingerprint of its files.
        parents: SHA-256 of the encoded bytes of the pictures that it was made from.
        seed: of the job.
        how: what else is written, by the names of the lineage: mode, ratio.
    """

    source: Source
    model: str
    model_hash: str
    parents: Sequence[str] = ()
    seed: int
    how: Mapping[str, str | int | float] = field(default_factory=dict)


def public_name(model: str) -> str:
    """A model's name without the folders that it lies in; a hub id as it is."""
    path = model.startswith(("/", "~", ".")) or "://" in model or "\\" in model
    return re.split(r"[/\\]", model.rstrip("/\\"))[-1] if path else model


def packet(mark: Mark) -> bytes:
    """The XMP packet, UTF-8."""
    values: dict[str, object] = {
        "xmp:CreatorTool": CREATOR,
        "Iptc4xmpExt:DigitalSourceType": VOCABULARY + mark.source,
        "Iptc4xmpExt:AISystemUsed": public_name(mark.model),
        "noiseweave:model": public_name(mark.model),
        "noiseweave:model_hash": mark.model_hash,
        "noiseweave:seed": mark.seed,
    }
    values |= {f"noiseweave:{name}": value for name, value in mark.how.items()}
    known = "".join(
        f"\n    xmlns:{name}={quoteattr(uri)}" for name, uri in NAMESPACES.items() if name != "rdf"
    )
    lines = "".join(f"\n    {name}={quoteattr(_clean(str(value)))}" for name, value in values.items())
    parents = "".join(f"\n     <rdf:li>{escape(_clean(parent))}</rdf:li>" for parent in mark.parents)
    if parents:
        parents = (
            f"\n   <noiseweave:parents>\n    <rdf:Seq>{parents}\n    </rdf:Seq>\n   </noiseweave:parents>"
        )
    text = (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n'
        f'<x:xmpmeta xmlns:x="adobe:ns:meta/">\n <rdf:RDF xmlns:rdf="{NAMESPACES["rdf"]}">\n'
        f'  <rdf:Description rdf:about=""{known}{lines}>{parents}\n  </rdf:Description>\n'
        ' </rdf:RDF>\n</x:xmpmeta>\n<?xpacket end="r"?>'
    )
    return text.encode()


def _clean(text: str) -> str:
    return _FORBIDDEN.sub("\ufffd", text)


def plain(mark: Mark) -> str:
    """The same in one line of words."""
    parts = [
        f"{TERMS[mark.source]} ({VOCABULARY}{mark.source})",
        f"model {public_name(mark.model)} {mark.model_hash}",
    ]
    parts += [f"seed {mark.seed}", *(f"{name} {value}" for name, value in mark.how.items())]
    if mark.parents:
        parts.append("parents " + " ".join(mark.parents))
    return _clean("; ".join(parts))


def options(mark: Mark | None, kind: str) -> Json:
    """The arguments of Pillow's ``save`` that write the mark into a file of a kind (PNG, JPEG, ...); {} for none."""
    if mark is None or kind not in HOLDERS:
        return {}
    if kind == "TIFF":
        return {"tiffinfo": {700: packet(mark)}}
    if kind != "PNG":
        return {"xmp": packet(mark)}
    info = PngInfo()
    info.add_text("Software", CREATOR)
    info.add_itxt("Source", plain(mark))  # of PNG's own words, what a picture came from
    info.add_itxt("XML:com.adobe.xmp", packet(mark).decode())
    return {"pnginfo": info}
