//! The date a template may print (`strftime_now`). Inner crates read no clock, so the caller supplies it.

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/// A local date and time of day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DateTime {
    /// The year, e.g. 2025.
    pub year: i32,
    /// 1 to 12.
    pub month: u8,
    /// 1 to 31.
    pub day: u8,
    /// 0 to 23.
    pub hour: u8,
    /// 0 to 59.
    pub minute: u8,
    /// 0 to 59.
    pub second: u8,
}

impl DateTime {
    /// Seconds since 1970-01-01 00:00, counted in local time, as a date (Howard Hinnant's `civil_from_days`).
    pub fn from_unix_seconds(seconds: i64) -> Self {
        let days = seconds.div_euclid(86_400) + 719_468;
        let of_day = seconds.rem_euclid(86_400);
        let era = days.div_euclid(146_097);
        let of_era = days.rem_euclid(146_097);
        let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted_month = (5 * of_year + 2) / 153;
        let day = of_year - (153 * shifted_month + 2) / 5 + 1;
        let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
        Self {
            year: (year_of_era + era * 400 + i64::from(month <= 2)) as i32,
            month: month as u8,
            day: day as u8,
            hour: (of_day / 3600) as u8,
            minute: (of_day / 60 % 60) as u8,
            second: (of_day % 60) as u8,
        }
    }

    /// `strftime` with the English names of C's locale; a directive that is not known stays as it is written.
    pub fn format(&self, pattern: &str) -> String {
        let mut text = String::new();
        let mut chars = pattern.chars();
        while let Some(c) = chars.next() {
            if c != '%' {
                text.push(c);
                continue;
            }
            match chars.next() {
                // glibc's "%-d": without the leading zero.
                Some('-') => match chars.next() {
                    Some(directive) => match self.directive(directive) {
                        Some(value) => {
                            text.push_str(value.strip_prefix('0').filter(|v| !v.is_empty()).unwrap_or(&value))
                        }
                        None => text.extend(['%', '-', directive]),
                    },
                    None => text.push_str("%-"),
                },
                Some(directive) => match self.directive(directive) {
                    Some(value) => text.push_str(&value),
                    None => text.extend(['%', directive]),
                },
                None => text.push('%'),
            }
        }
        text
    }

    fn directive(&self, directive: char) -> Option<String> {
        let month = MONTHS.get(usize::from(self.month).wrapping_sub(1)).copied().unwrap_or("?");
        let day = DAYS[self.weekday()];
        let hour12 = match self.hour % 12 {
            0 => 12,
            hour => hour,
        };
        Some(match directive {
            'Y' => self.year.to_string(),
            'y' => format!("{:02}", self.year.rem_euclid(100)),
            'm' => format!("{:02}", self.month),
            'B' => month.into(),
            'b' | 'h' => month.chars().take(3).collect(),
            'd' => format!("{:02}", self.day),
            'e' => format!("{:2}", self.day),
            'j' => format!("{:03}", self.day_of_year()),
            'A' => day.into(),
            'a' => day.chars().take(3).collect(),
            'w' => self.weekday().to_string(),
            'H' => format!("{:02}", self.hour),
            'I' => format!("{hour12:02}"),
            'p' => if self.hour < 12 { "AM" } else { "PM" }.into(),
            'M' => format!("{:02}", self.minute),
            'S' => format!("{:02}", self.second),
            'F' => format!("{}-{:02}-{:02}", self.year, self.month, self.day),
            'T' => format!("{:02}:{:02}:{:02}", self.hour, self.minute, self.second),
            'D' => format!("{:02}/{:02}/{:02}", self.month, self.day, self.year.rem_euclid(100)),
            '%' => "%".into(),
            _ => return None,
        })
    }

    fn day_of_year(&self) -> i64 {
        let leap = self.year % 4 == 0 && (self.year % 100 != 0 || self.year % 400 == 0);
        let before = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];
        let months = before.get(usize::from(self.month).wrapping_sub(1)).copied().unwrap_or(0);
        months + i64::from(leap && self.month > 2) + i64::from(self.day)
    }

    /// 0 is Sunday.
    fn weekday(&self) -> usize {
        let before = i64::from(self.year) - 1;
        let days = before * 365 + before.div_euclid(4) - before.div_euclid(100) + before.div_euclid(400);
        (days + self.day_of_year()).rem_euclid(7) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_print_as_strftime_prints_them() {
        let date = DateTime::from_unix_seconds(1_721_952_245);
        assert_eq!(date, DateTime { year: 2024, month: 7, day: 26, hour: 0, minute: 4, second: 5 });
        assert_eq!(date.format("%d %b %Y"), "26 Jul 2024");
        assert_eq!(
            date.format("%A, %-d %B %Y %I:%M:%S %p %j %% %Q"),
            "Friday, 26 July 2024 12:04:05 AM 208 % %Q"
        );
        let leap = DateTime::from_unix_seconds(951_782_400);
        assert_eq!(leap.format("%F %a %-m"), "2000-02-29 Tue 2");
        assert_eq!(DateTime::from_unix_seconds(-1).format("%F %T %w"), "1969-12-31 23:59:59 3");
    }
}
