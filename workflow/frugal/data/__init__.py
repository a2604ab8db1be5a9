"""Files that frugal did not make: what may be downloaded, how it is checked, and photographs as network input.

`sources` says what there is and where it can be had, `download` fetches it, `photographs` are those that the Python
packages bring, `image_to_bin` turns pictures into the float32 file that every experiment reads (`decode` takes one
picture file apart), `mosaic` makes huge images of them. The package itself imports nothing: the Snakefile reads
`sources` and must stay quick.
"""
