// Runs before the page is drawn, so that a stored choice of theme never flashes.
try {
  const theme = localStorage.getItem('muster-theme');
  if (theme === 'light' || theme === 'dark') document.documentElement.dataset.theme = theme;
} catch { /* storage is off: the system's theme holds */ }
