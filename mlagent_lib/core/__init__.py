"""Seeds, artefacts, errors, limits and profiles: everything that knows neither tasks nor models."""
