"""What an installation is: `site.yaml`, read, checked and explained. Imports nothing of ours and touches nothing.

`site` holds the model, `document` reads and writes the file, `report` shows what is wrong with it on the user's own
lines, and `supported` says which settings work today.
"""
