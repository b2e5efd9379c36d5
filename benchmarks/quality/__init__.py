"""Which method finds which defects, with ImageNet weights: ``python -m benchmarks.quality``.

A module imports only from a line below:

    __main__            the command
    table               results as a file, and as tables in Markdown
    measuring           a run, from the configuration to its numbers
    datasets  methods   what is compared
    plate               a drawn plate
    motifs              photographs and textures
    defects             scratches, spots and dents
"""
