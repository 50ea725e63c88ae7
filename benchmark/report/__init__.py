"""Records -> one HTML page: ``python -m benchmark.report --dataset mnist``.

A file per section makes data (`Table`, `Chart`, `Gallery`, ...); `page` puts them into the
templates. Nothing here computes with networks, so nothing imports torch but ``__main__``, which
reads the test images that the gallery shows.
"""
