"""What runs on the user's computer: from `site.yaml` and a profile to an artefact."""
