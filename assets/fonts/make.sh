#!/bin/sh
# Makes inter.otf and jetbrains-mono.ttf from the full fonts (Debian's fonts-inter and fonts-jetbrains-mono, installed): Latin,
# Greek, Cyrillic, punctuation, arrows and mathematics, without hints, which the window's rasterizer does not use.
# Needs fonttools (pip install fonttools). Other scripts fall back to egui's own fonts.
set -e
cd "$(dirname "$0")"
chars="U+0020-007E,U+00A0-024F,U+0370-03FF,U+0400-045F,U+1E9E,U+2010-2027,U+202F-203A,U+2044,U+2070-209F,U+20A0-20BF"
chars="$chars,U+2116,U+2122,U+2190-2199,U+2200-22FF,U+2318,U+21E7,U+2303,U+2325,U+25A0-25FF,U+2713,U+2715,U+FFFD"
pyftsubset /usr/share/fonts/opentype/inter/Inter-Regular.otf --unicodes="$chars" --no-hinting --desubroutinize \
  --layout-features=kern,calt,ccmp,locl,mark,mkmk --output-file=inter.otf
pyftsubset /usr/share/fonts/truetype/jetbrains-mono/JetBrainsMono-Regular.ttf --unicodes="$chars" --no-hinting \
  --layout-features=ccmp,locl,mark,mkmk --output-file=jetbrains-mono.ttf
