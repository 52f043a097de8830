# SPDX-License-Identifier: MPL-2.0
"""Fetches the training photographs and renders training clips from them.

`python data.py DIR` downloads the packages named in PACKAGES from Debian's pool into DIR/debs, where
they may be already, checks that they are the very files, unpacks them and writes

  DIR/train/*.png   pictures to train on, shorter side at most 1080
  DIR/test/*.png    pictures kept out of training

Only pictures under CC0, CC-BY, CC-BY-SA or in the public domain are trained on.
The wallpapers under the GPL or LGPL, and scikit-learn's two, are the test.
"""
import glob
import hashlib
import importlib.util
import os
import subprocess
import sys
import urllib.request

import cv2
import numpy as np
import torch
from PIL import Image

POOL = "http://deb.debian.org/debian/pool/main/"
PACKAGES = [  # where in the pool, SHA-256; Debian 13's budgie-backgrounds, Debian 12's others
    ("b/budgie-backgrounds/budgie-backgrounds_3.0-1_all.deb",
     "b91c2d5209558bc11d8d3a161f22a608857e3f8c735980cfab0d6650b03014ca"),
    ("l/lomiri-wallpapers/lomiri-wallpapers-16.04_20.04.0-2_all.deb",
     "a99ff6a3bfe451e4cc0682ecb3cc82e71740626d59e4845ae34a0a0e45421eab"),
    ("l/lomiri-wallpapers/lomiri-wallpapers-20.04_20.04.0-2_all.deb",
     "d44e89b8473aafe64a5b678f014862dc31335aaaf18665c544d985d854f1a709"),
    ("p/plasma-workspace-wallpapers/plasma-workspace-wallpapers_5.27.5-2_all.deb",
     "32cd18b71c8c938a18b3b351f217c02ac590e323caa3cf322fbb875ce8892f8b"),
    ("u/ukui-wallpapers/ukui-wallpapers_20.04.3-1.1_all.deb",
     "6d49be70152e6d603163458e177e501deb0be8f2916389ccbfcf59b0d7fc0262"),
    ("m/mate-backgrounds/mate-backgrounds_1.26.0-1_all.deb",  # test only
     "7bf4c2209f34b4f61ba6d24c8b58c28b361e82e4b943aae6d42c030169af9e04"),
]
BUDGIE = "budgie-backgrounds:usr/share/backgrounds/budgie/"
LOMIRI16 = "lomiri-wallpapers-16.04:usr/share/backgrounds/"
LOMIRI20 = "lomiri-wallpapers-20.04:usr/share/backgrounds/"
PLASMA = "plasma-workspace-wallpapers:usr/share/wallpapers/"
UKUI = "ukui-wallpapers:usr/share/backgrounds/"
MATE = "mate-backgrounds:usr/share/backgrounds/mate/nature/"
SKIMAGE = "skimage:data/"
SKLEARN = "sklearn:datasets/images/"

# (source, licence, author)
TRAIN = (
    [(BUDGIE + n + ".jpg", "CC0-1.0", "Budgie Desktop Developers") for n in (
        "abstract-spiral", "beacon-street-sunset", "blue-periwinkle", "canyon-wren",
        "casa-mila", "extreme-desert-hike", "high-trestle-trail", "lake-sherburne",
        "oakland-zoo-otters", "ocean-waves", "perched-osprey", "piazza-gae-aulenti",
        "roman-colosseum", "saturnian-profile", "singaporean-cityscape", "tea-gardens")]
    + [(LOMIRI16 + n + ".jpg", lic, who) for n, lic, who in (
        ("Bridge_by_Sander_Klootwijk", "CC-BY-SA-4.0", "Sander Klootwijk"),
        ("Dragonfly_by_Bolly", "CC-BY-SA-4.0", "Bolly"),
        ("Picture_0B_by_freespace", "CC-BY-4.0", "Trevor \"Freespace\""),
        ("Picture_1A_by_freespace", "CC-BY-4.0", "Trevor \"Freespace\""),
        ("Wine_by_Jakkub_Mede", "CC-BY-4.0", "Jakub Mede"),
        ("aitzgorri_by_Aitzol_Berasategi", "CC-BY-4.0", "Aitzol Berasategi"),
        ("free_by_Peter_Nerlich", "CC-BY-SA-4.0", "Peter Nerlich"),
        ("friends_by_Aitzol_Berasategi", "CC-BY-4.0", "Aitzol Berasategi"),
        ("greentock_by_Peter_Nerlich", "CC-BY-SA-4.0", "Peter Nerlich"),
        ("life_by_Aitzol_Berasategi", "CC-BY-4.0", "Aitzol Berasategi"),
        ("picosdeeuropa_by_Aitzol_Berasategi", "CC-BY-4.0", "Aitzol Berasategi"),
        ("seeding_by_Clements_Engelhardt", "CC0-1.0", "Clemens Engelhardt"),
        ("sunset_by_Aitzol_Berasategi", "CC-BY-4.0", "Aitzol Berasategi"),
        ("umang_by_Abhishek_Mudgal", "CC-BY-4.0", "Abhishek Mudgal"))]
    + [(LOMIRI20 + "Kleiber_by_Lukas_Baubkus.jpg", "CC-BY-SA-3.0", "Lukas Baubkus")]
    + [(PLASMA + n + "/contents/images/5120x2880." + ext, "CC-BY-SA-4.0", who) for n, ext, who in (
        ("Altai", "png", "Alesya Khoteeva"), ("IceCold", "png", "Santiago Cézar"),
        ("Volna", "jpg", "Nikita Babin"), ("SafeLanding", "jpg", "Louis Durrant"))]
    + [(UKUI + n, "CC-BY-SA-3.0", "Ubuntu Kylin community") for n in (
        "string.jpg", "rhythm.jpg")]
    + [(SKIMAGE + n, lic, who) for n, lic, who in (
        ("astronaut.png", "public domain", "NASA"),
        ("chelsea.png", "CC0-1.0", "Stefan van der Walt"),
        ("coffee.png", "CC0-1.0", "Rachel Michetti"),
        ("rocket.jpg", "public domain", "SpaceX"),
        ("hubble_deep_field.jpg", "public domain", "NASA"),
        ("gravel.png", "CC0-1.0", "CC0Textures"),
        ("brick.png", "CC0-1.0", "CC0Textures"),
        ("grass.png", "CC0-1.0", "linolafett"))]
)
TEST = (
    [(SKLEARN + n, "CC-BY-2.0", who) for n, who in (
        ("china.jpg", "danielbuechele"), ("flower.jpg", "vultilion, danielbuechele"))]
    + [(PLASMA + n + "/contents/images/1280x1024.jpg", "LGPL-3.0", who) for n, who in (
        ("EveningGlow", "Ian Hex"), ("FallenLeaf", "Martin Klapetek"), ("Path", "Risto Saukonpää"))]
    + [(MATE + n, "GPL-2.0-or-later", who) for n, who in (
        ("Garden.jpg", "Charles Barbin"), ("LadyBird.jpg", "Charles Barbin"),
        ("Storm.jpg", "Sergey Nazarov"))]
)

WIDTH, HEIGHT = 512, 288


def locate(source, root):
    """The file that a 'package:path' source names."""
    package, path = source.split(":", 1)
    if package in ("skimage", "sklearn"):
        spec = importlib.util.find_spec(package)
        return os.path.join(spec.submodule_search_locations[0], path)
    return os.path.join(root, "raw", package, path)


def fetch(root):
    debs = os.path.join(root, "debs")
    os.makedirs(debs, exist_ok=True)
    for path, digest in PACKAGES:
        name = os.path.basename(path)
        deb = os.path.join(debs, name)
        if not os.path.exists(deb):
            print("fetching", POOL + path, flush=True)
            urllib.request.urlretrieve(POOL + path, deb + ".part")
            os.replace(deb + ".part", deb)
        with open(deb, "rb") as f:
            found = hashlib.file_digest(f, "sha256").hexdigest()
        if found != digest:
            sys.exit(f"{deb} is not the package that the model was trained with: its SHA-256 is {found}, not {digest}. "
                     "Delete it to fetch it again.")
        raw = os.path.join(root, "raw", name.split("_")[0])
        os.makedirs(raw, exist_ok=True)
        subprocess.run(["dpkg-deb", "-x", deb, raw], check=True)
    for kind, sources in (("train", TRAIN), ("test", TEST)):
        os.makedirs(os.path.join(root, kind), exist_ok=True)
        for source, _, _ in sources:
            path = locate(source, root)
            parts = path.split(os.sep)
            name = parts[-4] if "/contents/" in path else os.path.splitext(parts[-1])[0]
            picture = Image.open(path).convert("RGB")
            scale = 1080 / min(picture.size)
            if scale < 1:
                size = [round(s * scale) for s in picture.size]
                picture = picture.resize(size, Image.LANCZOS)
            picture.save(os.path.join(root, kind, name + ".png"))
        print(kind, len(sources), "pictures")


def load(folder):
    """{name: uint8 RGB array} of a folder's pictures, in the order of their names."""
    return {os.path.basename(p)[:-4]: np.asarray(Image.open(p)) for p in
            sorted(glob.glob(os.path.join(folder, "*.png")))}


def pyramid(picture):
    """The picture at full, 1/sqrt(2), 1/2, ... size, down to a shorter side of 200."""
    levels = [picture]
    while min(levels[-1].shape[:2]) / np.sqrt(2) >= 200:
        h, w = levels[-1].shape[:2]
        levels.append(cv2.resize(levels[-1], (round(w / np.sqrt(2)), round(h / np.sqrt(2))),
                                 interpolation=cv2.INTER_AREA))
    return levels


def keyframe(picture, width=WIDTH, height=HEIGHT):
    """The picture's middle as a (1, 3, height, width) tensor in [-1, 1]."""
    h, w = picture.shape[:2]
    scale = max(width / w, height / h)
    size = (max(width, round(w * scale)), max(height, round(h * scale)))
    picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    y, x = (size[1] - height) // 2, (size[0] - width) // 2
    picture = np.ascontiguousarray(picture[y:y + height, x:x + width])
    return torch.from_numpy(picture).permute(2, 0, 1)[None].float().div_(127.5).sub_(1)


if __name__ == "__main__":
    fetch(sys.argv[1])
