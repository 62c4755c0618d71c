"""The benchmark's driver; standard library only. `works` says what is measured, `report` how it is told."""
