"""Measurements: how fast, how large, how right. Each command says with ``--help`` what it takes.

Commands, run from the checkout:

    python -m benchmarks.compare    anomalib's own tiled ensemble, this package and a bare loop, on the same images
    python -m benchmarks.growth     peak memory with some images, and with several times as many
    python -m benchmarks.predicting ways to predict: seconds per image, images per second, defects found
    python benchmarks/thresholds.py rates that threshold rules reach on images
    python benchmarks/gap.py        F1 score on new images, for places of the threshold in a gap between scores
    python benchmarks/tails.py      rates that threshold rules reach on numbers of known distributions

What the first three are made of; a module imports only from its own line or below:

    predicting  growth          the commands
    compare                     the command that the others take their arguments from
    ways  prediction_plot       how each way to predict is made and measured | a picture of the numbers
    single                      one model on whole images, as a command
    prediction_report           the numbers of all ways as tables and JSON
    timing                      predicts in one way and takes the time, as a command
    predictors  memory_limit    the ways to predict | processes that fail before others get too little memory
    quality                     which defects are found
    programs                    how each program is started, and where it leaves its metrics
    reference  loop             anomalib's own tiled ensemble, and the bare loop, as commands
    plot  page                  a picture of the numbers | a section of a page of the documentation
    report                      the numbers as table and JSON
    measure  decodes            time, memory and disk of a command | images that it decodes
    case  process_tree          what is measured on | processes that a command starts
    auroc  machine              area under the curve | what is measured with
    hook                        runs in every measured process, and notes what is decoded
"""
