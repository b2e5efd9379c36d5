"""Measurements: how fast, how large, how right. Each command says with ``--help`` what it takes.

Commands, run from the checkout:

    python -m benchmarks.compare    anomalib's own tiled ensemble, this package and a bare loop, on the same images
    python -m benchmarks.growth     peak memory with some images, and with several times as many
    python benchmarks/thresholds.py rates that threshold rules reach on images
    python benchmarks/tails.py      rates that threshold rules reach on numbers of known distributions

What the first two are made of; a module imports only from its own line or below:

    compare  growth             the commands
    programs                    how each program is started, and where it leaves its metrics
    reference  loop             anomalib's own tiled ensemble, and the bare loop, as commands
    plot  page                  a picture of the numbers | a section of a page of the documentation
    report                      the numbers as table and JSON
    measure  decodes            time, memory and disk of a command | images that it decodes
    case  process_tree          what is measured on | processes that a command starts
    auroc  machine              area under the curve | what is measured with
    hook                        runs in every measured process, and notes what is decoded
"""
