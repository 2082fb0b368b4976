"""What a picture's file says of itself, read by Pillow and an XML parser."""

import io
import xml.etree.ElementTree as ElementTree

from PIL import Image

RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"


def read(data):
    """name -> value of a file's XMP packet, with its parents as a list; None where it has none."""
    with Image.open(io.BytesIO(data)) as image:
        packet = image.info.get("xmp")
    if packet is None:
        return None
    (description,) = ElementTree.fromstring(packet).iter(f"{RDF}Description")
    found = {name.rpartition("}")[2]: value for name, value in description.attrib.items()}
    found["parents"] = [item.text for item in description.iter(f"{RDF}li")]
    return found


def source(data):
    """The last part of its kind of source."""
    return read(data)["DigitalSourceType"].rpartition("/")[2]
