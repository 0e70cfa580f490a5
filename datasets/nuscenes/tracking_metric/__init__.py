"""The nuScenes tracking metric: AMOTA, AMOTP and the CLEAR figures, equal to the devkit's (tracking_nips_2019)."""
