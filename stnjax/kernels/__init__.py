"""Ways to sample one image, one per file, all with one signature.

`sample(image, points, *, method, padding, align_corners)` reads an image
`[*shape, C]` at pixel coordinates `[..., N]` and returns `[..., C]`.
"""
