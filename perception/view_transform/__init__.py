"""From image features to the BEV grid; `build` says which ways there are."""
