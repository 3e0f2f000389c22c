"""Diagnoses: LightningModules whose test loop asks where information is lost."""
