"""Images, folders and H5 files. No Jittor here."""
