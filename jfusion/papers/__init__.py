"""Published numbers as CSV (`system,task,dataset,metric,value,source`, digits as printed)."""
